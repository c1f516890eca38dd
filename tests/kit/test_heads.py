"""Heads and stems: found by what runs, whatever the order in which layers were registered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from learnforge import ArtifactError, TaskInfo, apply_change, changes_of, copy_weights
from learnforge_kit import (
    NewHead,
    NewStem,
    find_head,
    find_heads,
    find_stem,
    read_layers,
    replace_heads,
    replace_stem,
)


def task(outputs: int, channels: int = 1) -> TaskInfo:
    """A task of 8 × 8 images."""
    names = tuple(f"class {number}" for number in range(outputs))
    return TaskInfo("task", names, names, (channels, 8, 8), (0.5,) * channels, (0.25,) * channels)


class Mine(nn.Module):
    """A caller's own network."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(x))
        return scores


class HeadFirst(nn.Module):
    """Its head is registered before a bottleneck with as many outputs, which runs before it."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        self.head = nn.Linear(outputs, outputs)
        self.stem = nn.Linear(64, 8)
        self.bottleneck = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.bottleneck(self.stem(x.flatten(1)).relu()).relu())
        return scores


class TwoHeads(nn.Module):
    """The scores of two heads are averaged, as in distilled vision transformers; a third one is not used."""

    def __init__(self, outputs: int = 3):
        super().__init__()
        self.body = nn.Linear(64, 8)
        self.head, self.head_dist, self.unused = (nn.Linear(8, outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x.flatten(1)).relu()
        scores: Tensor = (self.head(features) + self.head_dist(features)) / 2
        return scores


class Mixed(nn.Module):
    """Its scores are a fixed product of a layer with as many outputs and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 7)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) @ torch.ones(7, 3, device=x.device, dtype=x.dtype)


def convolutional(outputs: int = 3) -> nn.Sequential:
    """A network whose head is a 1 × 1 convolution."""
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, outputs, 1, bias=False),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def test_head_is_the_layer_that_the_scores_come_from() -> None:
    """Linear or convolution, whatever runs behind it and wherever it was registered."""
    assert find_head(Mine(), task(3)) == "head"
    assert find_head(Mine(4), task(4)) == "head"
    assert find_head(HeadFirst(), task(3)) == "head"
    assert find_head(convolutional(), task(3)) == "2"
    assert read_layers(HeadFirst().eval(), torch.rand(2, 1, 8, 8)).embedding == "head:input"


@pytest.mark.parametrize("freeze", [False, True])
def test_finding_leaves_the_network_alone(freeze: bool) -> None:
    """Modes, weights and statistics are as before, also where nothing needs a gradient."""
    network = Mine().requires_grad_(not freeze).train()
    network.body[2].eval()
    before = copy_weights(network)
    assert find_head(network, task(3)) == "head"
    assert network.training
    assert not network.body[2].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_several_heads_are_found_and_replaced_together() -> None:
    """Those whose scores are combined, and no other; what needs one refuses them in words."""
    network = TwoHeads()
    assert find_heads(network, task(3)) == ("head", "head_dist")
    with pytest.raises(ArtifactError, match="come from 2 heads, head, head_dist, and this needs"):
        find_head(network, task(3))
    assert replace_heads(network, task(5)) == ("head", "head_dist")
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    assert network.unused.out_features == 3


def test_unknown_head_lists_the_layers() -> None:
    """Where the scores come from no layer with an output for each, all layers are listed."""
    with pytest.raises(
        ArtifactError,
        match=r"the head of Mixed is unknown: its class scores come from no linear layer or convolution with "
        r"an output for each; layers: layer Linear",
    ):
        find_head(Mixed(), task(3))
    with pytest.raises(ArtifactError, match="layers: none"):
        find_head(nn.Flatten(), task(3))


def test_replacing_a_linear_head() -> None:
    """The new head has the new number of outputs and a fresh start; all else stays."""
    module = Mine()
    before = copy_weights(module)
    assert replace_heads(module, task(5)) == ("head",)
    assert module(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    assert module.head.bias is not None
    assert torch.equal(module.body[1].weight, before["body.1.weight"])  # type: ignore[arg-type]


def test_a_head_before_a_bottleneck_is_the_one_that_is_replaced() -> None:
    """The bottleneck keeps its weights."""
    module = HeadFirst()
    before = copy_weights(module)
    assert replace_heads(module, task(5)) == ("head",)
    assert module(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    assert torch.equal(module.bottleneck.weight, before["bottleneck.weight"])


def test_replacing_by_as_many_outputs_is_a_fresh_start() -> None:
    """A head with as many outputs as before is new all the same, and drawn from the global generator."""
    heads = []
    for _ in range(2):
        module = Mine()
        old = module.head
        torch.manual_seed(1)
        replace_heads(module, task(3))
        assert module.head is not old
        heads.append(module.head.weight)
    assert torch.equal(heads[0], heads[1])


def test_replacing_a_convolution_as_head() -> None:
    """A convolution keeps kernel, stride, padding, dilation and its lack of a bias."""
    module = convolutional()
    assert replace_heads(module, task(7)) == ("2",)
    assert module(torch.rand(2, 1, 8, 8)).shape == (2, 7)
    assert module[2].bias is None
    assert module[2].kernel_size == (1, 1)
    head = nn.Conv2d(1, 3, 3, stride=2, padding=2, dilation=2, padding_mode="reflect")
    strided = nn.Sequential(head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    # (8 + 2 · 2 - 2 · 2 - 1) // 2 + 1 = 4
    replace_heads(strided, task(4))
    assert strided[0](torch.rand(1, 1, 8, 8)).shape == (1, 4, 4, 4)
    assert (strided[0].dilation, strided[0].padding_mode) == ((2, 2), "reflect")


def test_a_head_that_something_behind_it_depends_on_is_refused() -> None:
    """A normalisation behind the head has a weight for each old class."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))
    with pytest.raises(ArtifactError, match="does not work with a head of 5 outputs at 1: "):
        replace_heads(module, task(5))


def test_new_head_has_the_old_ones_type_and_device() -> None:
    """A head in double precision, or on the meta device, is replaced by one of the same kind."""
    module = Mine().double()
    replace_heads(module, task(5))
    assert module.head.weight.dtype == torch.float64
    module = Mine().to("meta")
    replace_heads(module, task(5))
    assert module.head.weight.device.type == "meta"


class StemLast(nn.Module):
    """Its first convolution is registered after the second."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(4, 4, 3)
        self.first = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.second(self.first(x)).mean((2, 3)))
        return scores


def test_stem_is_the_first_layer_that_runs() -> None:
    """Wherever it was registered; its weights are averaged over channels, their sum kept."""
    network = StemLast()
    total = network.first.weight.detach().sum(1)
    assert find_stem(network, (3, 8, 8)) == "first"
    assert replace_stem(network, (3, 8, 8), 1) == "first"
    torch.testing.assert_close(network.first.weight.detach().sum(1), total)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_changes_are_written_down_once() -> None:
    """Two fresh heads in a row are one change, since the second replaces the first."""
    network = apply_change(apply_change(Mine(), NewHead(), task(4)), NewHead(), task(5))
    assert changes_of(network) == (NewHead(),)
    network = apply_change(StemLast(), NewStem(3), task(3))
    assert changes_of(network) == (NewStem(3),)
    assert network(torch.rand(2, 1, 8, 8)).shape == (2, 3)
