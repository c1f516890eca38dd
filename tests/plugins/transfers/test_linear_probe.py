"""Linear probe: each classifier against a closed form, a solver or by hand; the network stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

from learnforge import StageError, Task
from learnforge.spec import copy_weights
from learnforge_kit import MemorySplit
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.training.evaluation import predict
from learnforge_plugins.transfers.linear_probe import _logistic, _ridge

CLASSIFIERS = ["logistic", "ridge", "nearest-mean"]


def features_of(network: Any, task: Task) -> Tensor:
    """Return standardised features of the training images."""
    images = Normaliser(task.info, torch.device("cpu"))(task.train.images)  # type: ignore[attr-defined]
    with torch.no_grad():
        found: Tensor = network.eval().body(images).flatten(1)
    return (found - found.mean(0)) / found.std(0, correction=0)


def scores_of(network: Any, task: Task) -> Tensor:
    return predict(network, task.train, task.info)


@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_only_the_head_changes(classifier: str, make: Any, net: Any, task: Task, make_context: Any) -> None:
    """Weights and batch statistics of the rest stay bit for bit; the fitted head separates the classes."""
    network = net(3)
    before = copy_weights(network)
    make("linear-probe", classifier=classifier).fit(network, task, make_context(None))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"head.weight", "head.bias"}
    accuracy = (scores_of(network, task).argmax(1) == task.train.labels).float().mean()
    assert accuracy > 0.8


def test_logistic_is_that_of_scikit_learn(make: Any, net: Any, task: Task, make_context: Any) -> None:
    """With strength s scikit-learn's C is 1 / (s n); both find the one minimum."""
    network, strength = net(3), 0.01
    known = features_of(network, task)
    make("linear-probe", strength=strength).fit(network, task, make_context(None))
    other = LogisticRegression(C=1 / (strength * len(known)), tol=1e-8, max_iter=10_000)
    wanted = other.fit(known.numpy(), task.train.labels.numpy()).predict_proba(known.numpy())
    torch.testing.assert_close(
        scores_of(network, task).softmax(1), torch.tensor(wanted).float(), rtol=1e-3, atol=1e-3
    )


def test_ridge_is_that_of_scikit_learn(make: Any, net: Any, task: Task, make_context: Any) -> None:
    """With strength s scikit-learn's alpha is s n."""
    network, strength = net(3), 0.1
    known = features_of(network, task)
    make("linear-probe", classifier="ridge", strength=strength).fit(network, task, make_context(None))
    targets = F.one_hot(task.train.labels, 3).numpy()
    wanted = Ridge(alpha=strength * len(known)).fit(known.numpy(), targets).predict(known.numpy())
    torch.testing.assert_close(scores_of(network, task), torch.tensor(wanted), rtol=1e-3, atol=1e-3)


def test_nearest_mean_by_hand(make: Any, net: Any, task: Task, make_context: Any) -> None:
    """The class is that of the nearest mean of standardised features."""
    network = net(3)
    known = features_of(network, task)
    make("linear-probe", classifier="nearest-mean").fit(network, task, make_context(None))
    means = torch.stack([known[task.train.labels == c].mean(0) for c in range(3)])
    assert torch.equal(scores_of(network, task).argmax(1), torch.cdist(known, means).argmin(1))


def test_a_class_without_images_is_never_named(make: Any, net: Any, task: Task, make_context: Any) -> None:
    """Nearest mean has no mean for it; its score is the lowest there is."""
    few = evolve(task, train=task.train.select((task.train.labels != 1).nonzero().flatten()))
    network = net(3)
    make("linear-probe", classifier="nearest-mean").fit(network, few, make_context(None))
    assert 1 not in scores_of(network, task).argmax(1)


@pytest.mark.parametrize("solve", [_logistic, _ridge])
def test_balanced_counts_classes_equally(solve: Any, make: Any) -> None:
    """Twice the images of a class change nothing where classes count equally, and something otherwise."""
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 3, generator=generator), torch.arange(40) % 2
    features[:, 0] += labels
    double = torch.cat([torch.arange(40), (labels == 0).nonzero().flatten()])

    def fitted(places: Tensor, balanced: bool) -> Tensor:
        weights = make("linear-probe", balanced=balanced)._weights(labels[places])
        ((weight, bias),) = solve(features[places], labels[places], 2, weights, [0.1])
        return (features @ weight.T + bias).softmax(1)

    for balanced in (True, False):
        apart = float((fitted(torch.arange(40), balanced) - fitted(double, balanced)).abs().max())
        assert (apart < 1e-3) == balanced


def test_strength_is_chosen_on_validation(make: Any, net: Any, task: Task, make_context: Any) -> None:
    """Without a strength, the fit is that of the one with the best validation accuracy, the larger of equals;
    here labels are partly wrong, so that it matters.
    """
    generator = torch.Generator().manual_seed(0)
    chance = torch.randint(0, 3, (30,), generator=generator)
    labels = torch.where(torch.arange(30) % 2 == 0, task.train.labels[:30], chance)
    few = evolve(task, train=MemorySplit(task.train.images[:30], labels))  # type: ignore[attr-defined]

    def fitted(**options: Any) -> tuple[float, Tensor]:
        network = net(3)
        make("linear-probe", **options).fit(network, few, make_context(None))
        right = predict(network, few.validation, few.info).argmax(1) == few.validation.labels
        return float(right.double().mean()), network.head.weight.detach()

    each = [fitted(strength=10.0**power) for power in range(-6, 1)]
    best = max(range(7), key=lambda place: (each[place][0], place))
    assert len({accuracy for accuracy, _ in each}) > 1
    assert torch.equal(fitted()[1], each[best][1])


def test_a_convolution_as_head_is_refused(make: Any, net: Any, task: Task) -> None:
    """The error shows the layer."""
    network = nn.Sequential(nn.Conv2d(1, 3, 8), nn.Flatten())
    with pytest.raises(
        StageError, match=r"the head must be a linear layer with bias to be fitted, it is Conv2d"
    ):
        make("linear-probe").prepare(network, task.info, task.info)
