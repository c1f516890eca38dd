"""Layouts in memory: channels come last where that is faster, and where the caller's code bears it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge import Context, Task
from learnforge.kinds.task import Batch
from learnforge_kit import Train, Trainee, evaluate, fit, supervised_loss
from learnforge_kit.networks.layout import layout_of, run

LAST, FIRST = torch.channels_last, torch.contiguous_format


class Seen(nn.Module):
    """Notes in which layout its inputs come, and draws numbers, in training."""

    def __init__(self, breaks: bool, dropout: float) -> None:
        super().__init__()
        self.layouts: list[bool] = []
        self.breaks, self.dropout = breaks, dropout

    def forward(self, images: Tensor) -> Tensor:
        """Flatten by `view` where told to, which works on channels that come first alone."""
        if self.training:
            self.layouts.append(images.is_contiguous(memory_format=LAST))
        shown = nn.functional.dropout(images, self.dropout, self.training)
        return shown.view(len(shown), -1) if self.breaks else shown.flatten(1)


def make_network(breaks: bool = False, dropout: float = 0.1) -> nn.Sequential:
    """A convolution, batch statistics, and a head over what `Seen` flattens; no weight without effect."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        Seen(breaks, dropout),
        nn.Linear(4 * 64, 3),
    )


@pytest.fixture
def train(task: Task, make_context: Callable[..., Context]) -> Callable[..., nn.Module]:
    """Train a network for two epochs on the labels."""

    def train(network: nn.Module, loss: Any = None, **changes: Any) -> nn.Module:
        settings = evolve(Train(epochs=2, batch_size=16, learning_rate=0.05), **changes)
        context = make_context(folder=None)
        trainee = Trainee(network, loss or supervised_loss(network))
        fit(trainee, task.train, task.info, settings, context, "net")
        return network

    return train


def test_only_planes_on_a_cpu_come_channels_last() -> None:
    """Not other inputs, not networks without convolutions of two axes, and not other devices."""
    network, cpu = make_network(), torch.device("cpu")
    assert layout_of(network, (1, 8, 8), cpu) is LAST
    assert layout_of(nn.Linear(3, 3), (1, 8, 8), cpu) is FIRST
    assert layout_of(nn.Conv1d(3, 3, 3), (3, 8), cpu) is FIRST
    assert layout_of(nn.Conv3d(1, 1, 3), (1, 8, 8, 8), cpu) is FIRST
    assert layout_of(network, (1, 8, 8), torch.device("cuda")) is FIRST


def test_a_training_sees_channels_last_and_leaves_them_first(train: Callable[..., nn.Module]) -> None:
    """Weights are handed on as they always are, for files that know no layouts."""
    network = train(make_network())
    assert all(network[2].layouts)  # type: ignore[index]
    assert all(parameter.is_contiguous() for parameter in network.parameters())


def test_code_that_needs_channels_first_gets_them(train: Callable[..., nn.Module]) -> None:
    """From its first step on, and with the numbers of a training that never tried: dropout draws the same,
    and batch statistics count every step once.
    """
    network = make_network(breaks=True)
    (first := train(network))[2].layouts.pop(0)  # type: ignore[index, union-attr]
    assert not any(network[2].layouts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("learnforge_kit.training.loop.layout_of", lambda *given: FIRST)
        plain = train(make_network(breaks=True))
    for (name, ours), theirs in zip(first.state_dict().items(), plain.state_dict().values(), strict=True):
        assert ours.equal(theirs), name


def test_both_layouts_learn_the_same(train: Callable[..., nn.Module]) -> None:
    """To rounding, where nothing is drawn: dropout draws in the order of the memory."""
    ours = train(make_network(dropout=0.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("learnforge_kit.training.loop.layout_of", lambda *given: FIRST)
        theirs = train(make_network(dropout=0.0))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_a_loss_that_views_gets_channels_first(train: Callable[..., nn.Module]) -> None:
    """Methods out of papers flatten feature maps by `view`."""
    network = make_network()
    layouts = []

    def loss(batch: Batch) -> Tensor:
        maps = network[:2](batch.images)
        maps.view(len(maps), -1)
        layouts.append(maps.is_contiguous())
        return batch.loss(network[2:](maps))

    train(network, loss)
    assert layouts
    assert all(layouts)


def test_what_is_wrong_in_both_layouts_is_said(train: Callable[..., nn.Module]) -> None:
    """The error of a loss that cannot work at all is its own."""

    def loss(batch: Batch) -> Tensor:
        raise RuntimeError("nothing to learn from")

    with pytest.raises(RuntimeError, match="nothing to learn from"):
        train(make_network(), loss)


def test_networks_are_judged_in_their_layout(task: Task) -> None:
    """And in the other one, where they cannot work in it."""
    seen: list[bool] = []

    class Watch(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.is_contiguous(memory_format=LAST) and not images.is_contiguous())
            return images

    def watched(breaks: bool) -> nn.Module:
        network = make_network(breaks)
        return nn.Sequential(*network[:2], Watch(), *network[2:])

    evaluate(watched(breaks=False), task.validation, task.info)
    assert set(seen) == {True}
    seen.clear()
    evaluate(watched(breaks=True), task.validation, task.info)
    assert set(seen) == {True, False}
    images = torch.randn(5, 1, 8, 8)
    network = watched(breaks=True).eval()
    assert run(network, images).equal(network(images))
    with pytest.raises(RuntimeError, match=r"cannot be multiplied"):
        run(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(3, 3)), images)
