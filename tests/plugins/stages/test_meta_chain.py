"""The engine `chain`: exact for every layer that it knows, and refusing every other by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnforge import FastWeights, Labelled, Plugins, StageError, TaskInfo
from learnforge.kinds.seen.engine import Rules
from learnforge_kit import ImageEpisodes
from learnforge_kit.engines import links
from learnforge_kit.engines.chain import ChainEngine, read_chain
from learnforge_kit.engines.loop import LoopEngine

TASKS, WAYS = 10, 3


def conv4(width: int) -> nn.Module:
    info = TaskInfo("task", tuple("abc"), tuple("abc"), (1, 16, 16), (0.5,), (0.5,))
    return Plugins().load("model", "conv4")(width=width).build(info)  # type: ignore[no-any-return]


class Written(nn.Module):
    """A chain in functions instead of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 5, stride=(2, 1), padding=(1, 2)), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, WAYS)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.tanh(F.relu(self.norm(self.conv(images)))).relu()
        out: Tensor = self.head(hidden.mean((2, 3)))
        return out


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "conv4": lambda: conv4(6),
    "written in functions": Written,
    "strides, no bias, no norm weights": lambda: nn.Sequential(
        nn.Conv2d(1, 5, 3, stride=2, bias=False),
        nn.BatchNorm2d(5, affine=False),
        nn.Tanh(),
        nn.Conv2d(5, 4, (3, 2), padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(4 * 3 * 3, 6, bias=False),
        nn.BatchNorm1d(6),
        nn.Tanh(),
        nn.Linear(6, WAYS),
    ),
    "perceptron": lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 8), nn.ReLU(), nn.Linear(8, WAYS)),
}


def make_network(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    return network, {n: p.detach().clone() for n, p in network.named_parameters()}


def make_episodes(shots: int = 2, queries: int = 3) -> ImageEpisodes:
    generator = torch.Generator().manual_seed(1)

    def labelled(count: int) -> Labelled:
        images = torch.randn(TASKS, WAYS * count, 1, 16, 16, generator=generator).double()
        return Labelled(images, torch.arange(WAYS).repeat_interleave(count).expand(TASKS, -1))

    return ImageEpisodes(labelled(shots), labelled(queries), torch.arange(WAYS).expand(TASKS, -1))


def assert_close(found: Any, expected: Any) -> None:
    """Compare to 1e-12 of the largest number of all."""
    assert set(found) == set(expected)
    scale = max(float(t.abs().max()) for t in expected.values())
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape
        assert float((found[name] - tensor).abs().max()) <= 1e-12 * max(scale, 1.0), name


@pytest.mark.parametrize("few_pixels", [0, 64, 10**9])
@pytest.mark.parametrize("policy", ["support", "transductive"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_pass_is_the_loops(
    name: str, policy: Any, few_pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps from shared and from own weights, their pull-backs, judgements and predictions, to 1e-12: with
    convolutions as grouped ones, as products of matrices, and mixed.
    """
    monkeypatch.setattr(links, "FEW_PIXELS", few_pixels)
    network, theta = make_network(name)
    episodes = make_episodes()
    loop, chain = LoopEngine(network, policy), ChainEngine(network, policy)
    weights = FastWeights(theta, is_shared=True)
    torch.manual_seed(2)
    for _ in range(2):  # shared weights first, then each task's own
        one, other = (engine.step(weights, episodes.support) for engine in (loop, chain))
        assert_close(other.gradients, one.gradients)
        assert torch.allclose(other.losses, one.losses, rtol=1e-12)
        cotangent = {n: torch.randn_like(g) for n, g in one.gradients.items()}
        assert_close(other.pull_back(cotangent, 0.3), one.pull_back(cotangent, 0.3))
        weights = weights.moved(one.gradients, 0.5)
        judged = [engine.judge(weights, episodes.support, episodes.queries) for engine in (loop, chain)]
        assert_close(judged[1].gradients, judged[0].gradients)
        assert torch.allclose(judged[1].losses, judged[0].losses, rtol=1e-12)
        assert torch.equal(judged[1].accuracies, judged[0].accuracies)
        outputs = [engine.predict(weights, episodes.support, episodes.queries) for engine in (loop, chain)]
        assert torch.allclose(outputs[1], outputs[0], rtol=1e-11)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("part", ["head", "biases", "weights", "first"])
def test_a_step_of_some_parameters(name: str, part: str) -> None:
    """A step of some parameters has their gradient alone, and pulls back to all: of the head, of biases
    without their weights, of the first layer.
    """
    network, theta = make_network(name)
    support = make_episodes().support
    engines = [LoopEngine(network, "support"), ChainEngine(network, "support")]
    names = {
        "head": [n for n in theta if n.startswith(f"{engines[0].head}.")],
        "biases": [n for n in theta if n.endswith(".bias")],
        "weights": [n for n in theta if n.endswith(".weight")],
        "first": list(theta)[:1],
    }[part]
    shared = FastWeights(theta, is_shared=True)
    one, other = (engine.step(shared, support, names) for engine in engines)
    assert set(other.gradients) == set(names)
    cotangent = {n: torch.ones_like(t).expand(TASKS, *t.shape) for n, t in theta.items()}
    assert_close(other.pull_back(cotangent, 0.3), one.pull_back(cotangent, 0.3))


def test_nothing_changes_and_nothing_needs_a_graph() -> None:
    """Parameters, buffers and episodes stay; gradients are detached; predictions need no task in common."""
    network, theta = make_network("conv4")
    before = {n: t.clone() for n, t in network.state_dict().items()}
    episodes, engine = make_episodes(), ChainEngine(network, "support")
    images = episodes.support.images.clone()
    leaves = {n: t.clone().requires_grad_() for n, t in theta.items()}
    step = engine.step(FastWeights(leaves, is_shared=True), episodes.support)
    found = engine.judge(FastWeights(leaves, is_shared=True), episodes.support, episodes.queries)
    assert not any(t.requires_grad for t in (*step.gradients.values(), *found.gradients.values()))
    assert all(torch.equal(leaves[n], t) for n, t in theta.items())
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert torch.equal(episodes.support.images, images)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, WAYS)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layer(images.flatten(1))
        out: Tensor = self.head(hidden + torch.relu(hidden))
        return out


class Deciding(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


class Idle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.spare = nn.Linear(4, WAYS), nn.Linear(2, 2)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(torch.flatten(images, 1))
        return out


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, WAYS)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(torch.relu(self.layer(torch.flatten(images, 1)))))
        return out


class Discarding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.spare = nn.Linear(4, WAYS), nn.Linear(WAYS, 2)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(torch.flatten(images, 1))
        self.spare(out)
        return out


class Averaging(nn.Module):
    def __init__(self, dim: Any) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(self.dim)


def tied() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    return network


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 4))
    network[0].register_forward_hook(lambda layer, given, output: 2 * output)
    return network


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (Branching(), r"Branching is no chain: add does not follow relu alone"),
        (Deciding(), r"Deciding cannot be traced: symbolically traced variables"),
        (Idle(), r"the parameters spare\.bias, spare\.weight must each belong to one layer of the chain"),
        (Twice(), r"the parameters layer\.bias, layer\.weight must each belong to one layer of the chain"),
        (tied(), r"the parameters 2\.weight must each belong to one layer of the chain"),
        (Discarding(), r"Discarding is no chain: it returns head, not its last layer spare"),
        (hooked(), r"does not know .*target=0"),
        (Averaging(-1), r"does not know .*target=mean"),
        (Averaging(None), r"does not know .*target=mean"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)), r"does not know .*target=0"),
        (nn.Sequential(nn.Conv2d(1, 4, 3, dilation=2)), r"does not know .*target=0"),
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding="same")), r"does not know .*target=0"),
        (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")), r"does not know .*target=0"),
        (nn.Sequential(nn.MaxPool2d(3, padding=1)), r"does not know .*target=0"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), r"does not know .*target=0"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(2)), r"does not know .*target=0"),
        (nn.Sequential(nn.GELU()), r"does not know .*target=0"),
        (nn.Sequential(nn.Flatten(2)), r"does not know .*target=0"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_no_chain_is_refused_by_name(network: nn.Module, words: str) -> None:
    """The first layer that does not fit is named, with what is wrong."""
    with pytest.raises(StageError, match=words):
        read_chain(network)


class Half(Rules):
    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return super().query_loss(outputs, labels) / 2


def test_other_rules_and_policies_are_refused() -> None:
    """Losses of a method's own, and policies that do not normalise by batches, are for other engines."""
    network, _ = make_network("conv4")
    with pytest.raises(StageError, match="usual losses and predictions, Half has its own query_loss"):
        ChainEngine(network, "support", Half())
    with pytest.raises(StageError, match="normalises by batches, not by the policy 'running'"):
        ChainEngine(network, "running")


def test_links_that_do_not_compute_the_network_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first pass the links are compared with the network; shapes that do not fit are refused."""
    network, theta = make_network("perceptron")
    engine, episodes = ChainEngine(network, "support"), make_episodes()
    monkeypatch.setattr(links.Rectifier, "forward", links.HyperbolicTangent.forward)
    for work in (engine.judge, engine.predict):
        with pytest.raises(StageError, match="does not compute what Sequential does"):
            work(FastWeights(theta, is_shared=True), episodes.support, episodes.queries)
    with pytest.raises(StageError, match="does not compute what Sequential does; choose the engine loop or"):
        engine.step(FastWeights(theta, is_shared=True), make_episodes().support)
    wide = nn.Sequential(nn.Linear(16, WAYS), nn.Flatten()).double()  # over width, links over channels
    theta = {n: p.detach() for n, p in wide.named_parameters()}
    with pytest.raises(StageError, match="does not compute what Sequential does"):
        ChainEngine(wide, "support").step(FastWeights(theta, is_shared=True), make_episodes().support)


def test_regression_goes_by_the_loop() -> None:
    """Targets that are numbers have the squared error, as with the other engines."""
    network, theta = make_network("perceptron")
    images = torch.randn(2, 4, 1, 16, 16, dtype=torch.float64)
    support = Labelled(images, torch.randn(2, 4, WAYS, dtype=torch.float64))
    shared = FastWeights(theta, is_shared=True)
    one, other = (e(network, "support").step(shared, support) for e in (LoopEngine, ChainEngine))
    assert_close(other.gradients, one.gradients)
