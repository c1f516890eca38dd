"""Prototypical networks: scores by hand, distances behind a linear head, and any number of ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learnforge import FastWeights, Labelled, Plugins, StageError
from learnforge_kit import ImageEpisodes
from learnforge_kit.engines.choice import ENGINES

NAMES = sorted(ENGINES)


def _pixels(*images: tuple[float, float]) -> Tensor:
    """Images of two pixels: [1, image, 1, 1, 2], for one task."""
    return torch.tensor(images, dtype=torch.float64)[None, :, None, None]


@pytest.fixture
def method(plugins: Plugins) -> Any:
    """The method; it has no options."""
    return plugins.load("meta-learner", "protonet")()


def _linear(outputs: int = 2) -> tuple[nn.Module, dict[str, Tensor]]:
    """A network whose embedding is the image itself."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, outputs)).double()
    return network, {name: p.detach().clone() for name, p in network.named_parameters()}


@pytest.mark.parametrize("name", NAMES)
def test_head_worked_by_hand(method: Any, name: str) -> None:
    """Classes {(0, 2), (2, 2)}, {(4, -1)} have prototypes (1, 2), (4, -1): weights 2 c, biases - |c|²."""
    support = Labelled(_pixels((0, 2), (4, -1), (2, 2)), torch.tensor([[0, 1, 0]]))
    network, theta = _linear()
    head = method.adapt(ENGINES[name](network, "support"), theta, support)[-1].of(0)
    assert head["1.weight"].tolist() == [[2.0, 4.0], [8.0, -2.0]]
    assert head["1.bias"].tolist() == [-5.0, -17.0]


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_distances_up_to_a_constant_of_the_image(method: Any, name: str) -> None:
    """Scores less |f(x)|² are the squared distances to the prototypes, negative."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    theta = {key: p.detach().clone() for key, p in network.named_parameters()}
    images = torch.randn(2, 6, 1, 1, 2, dtype=torch.float64)
    support = Labelled(images, torch.arange(3).repeat(2).expand(2, -1))
    query = Labelled(torch.randn(2, 5, 1, 1, 2, dtype=torch.float64), torch.zeros(2, 5, dtype=torch.int64))
    engine = ENGINES[name](network, "support")
    outputs = engine.predict(method.adapt(engine, theta, support)[-1], support, query)
    for task in range(2):
        embedded, shown = (network[:3](part.images[task]).detach() for part in (support, query))
        prototypes = torch.stack([embedded[support.labels[task] == way].mean(0) for way in range(3)])
        distances = torch.cdist(shown, prototypes).square()
        assert torch.allclose(outputs[task] - shown.square().sum(1, keepdim=True), -distances)


@pytest.mark.parametrize("name", NAMES)
def test_order_and_repetition_of_the_support_do_not_matter(method: Any, name: str) -> None:
    """A support set in another order, or shown twice, gives the same head."""
    network, theta = _linear()
    engine = ENGINES[name](network, "support")
    images, labels = _pixels((0, 2), (4, -1), (2, 2)), torch.tensor([[0, 1, 0]])
    order = torch.tensor([2, 0, 1])
    heads = [
        method.adapt(engine, theta, Labelled(images[:, o], labels[:, o]))[-1].of(0)["1.weight"]
        for o in (torch.arange(3), order, torch.cat([order, order]))
    ]
    assert torch.allclose(heads[0], heads[1])
    assert torch.allclose(heads[0], heads[2])


@pytest.mark.parametrize("name", NAMES)
def test_meta_training_may_have_more_ways_than_the_head(method: Any, name: str) -> None:
    """An episode of four ways trains a network with two outputs, and its own head gets no gradient."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    theta = {key: p.detach().clone() for key, p in network.named_parameters()}
    support = Labelled(torch.randn(2, 4, 1, 1, 2, dtype=torch.float64), torch.arange(4).expand(2, -1))
    query = Labelled(torch.randn(2, 8, 1, 1, 2, dtype=torch.float64), torch.arange(4).repeat(2).expand(2, -1))
    episodes = ImageEpisodes(support, query, torch.arange(4).expand(2, -1))
    found = method.gradient(ENGINES[name](network, "support"), theta, episodes)
    assert found.losses.shape == (2,)
    assert {key: bool(g.any()) for key, g in found.gradients.items()} == {
        "1.weight": True, "1.bias": True, "3.weight": False, "3.bias": False,
    }  # fmt: skip


def test_untrained_head_comes_first(method: Any) -> None:
    """The trajectory starts with the network's own head: what it knew without examples."""
    network, theta = _linear()
    support = Labelled(_pixels((0, 2), (4, -1)), torch.tensor([[0, 1]]))
    first, _ = method.adapt(ENGINES["loop"](network, "support"), theta, support)
    assert isinstance(first, FastWeights)
    assert torch.equal(first.of(0)["1.weight"], theta["1.weight"])


def test_heads_without_a_bias_are_refused(method: Any) -> None:
    """The distances need a bias; the layer is named."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    theta = {key: p.detach().clone() for key, p in network.named_parameters()}
    support = Labelled(_pixels((0, 2), (4, -1)), torch.tensor([[0, 1]]))
    with pytest.raises(StageError, match=r"linear layer with a bias .* is '1', Linear"):
        method.adapt(ENGINES["loop"](network, "support"), theta, support)
