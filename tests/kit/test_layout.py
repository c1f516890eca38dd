"""Layouts in memory: networks work channels-last where that is faster and they can; nobody else sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge import Context, Task, TaskInfo
from learnforge.kinds.task import Batch
from learnforge_kit import MemorySplit, Train, Trainee, evaluate, fit, supervised_loss
from learnforge_kit.networks.layout import channels_last

CPU = torch.device("cpu")
NAMES = tuple("abc")
INFO = TaskInfo("noise", NAMES, NAMES, (3, 8, 8), (0.5,) * 3, (0.25,) * 3)


class Seen(nn.Module):
    """Notes whether its inputs come with their channels last, and flattens them, by `view` where told to."""

    def __init__(self, views: bool) -> None:
        super().__init__()
        self.last: list[bool] = []
        self.views = views

    def forward(self, images: Tensor) -> Tensor:
        """Flatten."""
        self.last.append(not images.is_contiguous())
        return images.view(len(images), -1) if self.views else images.flatten(1)


def make_network(views: bool = False) -> nn.Sequential:
    """A convolution, batch statistics, and a head over what `Seen` flattens; no weight without effect."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(4), Seen(views), nn.Linear(4 * 64, 3))


@pytest.fixture
def split() -> MemorySplit:
    """Colour noise."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (48, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return MemorySplit(pixels, torch.arange(48) % 3)


@pytest.fixture
def train(split: MemorySplit, make_context: Callable[..., Context]) -> Callable[..., nn.Module]:
    """Train a network on the labels."""

    def train(network: nn.Module, loss: Any = None, **changes: Any) -> nn.Module:
        settings = evolve(Train(epochs=2, batch_size=16, learning_rate=0.05), **changes)
        trainee = Trainee(network, loss or supervised_loss(network))
        fit(trainee, split, INFO, settings, make_context(folder=None), "net")
        return network

    return train


def calls(network: nn.Module, shape: tuple[int, ...] = (3, 8, 8), device: torch.device = CPU) -> bool:
    """Tell whether a network works channels-last within the block."""
    with channels_last(network, shape, device):
        return bool(network._forward_pre_hooks)


def test_only_planes_on_a_cpu_come_channels_last() -> None:
    """Not other inputs, not networks without convolutions of two axes, and not other devices."""
    assert calls(make_network())
    assert not calls(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)))
    assert not calls(nn.Conv1d(3, 3, 3), (3, 8))
    assert not calls(nn.Conv3d(1, 1, 3), (1, 8, 8, 8))
    assert not calls(make_network(), device=torch.device("cuda"))


def test_a_training_works_channels_last(train: Callable[..., nn.Module]) -> None:
    """Its weights stay as they are, and nothing stays behind."""
    network = train(make_network())
    assert all(network[2].last)  # type: ignore[index]
    assert all(parameter.is_contiguous() for parameter in network.parameters())
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


def test_both_layouts_learn_the_same(train: Callable[..., nn.Module]) -> None:
    """To rounding."""
    ours = train(make_network())
    theirs = train(make_network(views=True))
    assert not any(theirs[2].last[1:])  # type: ignore[index]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_a_trial_leaves_no_trace() -> None:
    """Modes of layers, statistics and random numbers are what they were, whether the network can or not."""
    for views in (False, True):
        network = make_network(views).train()
        network[1].eval()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        drawn = torch.get_rng_state()
        assert calls(network) is not views
        assert [layer.training for layer in network] == [True, False, True, True]
        assert all(value.equal(before[name]) for name, value in network.state_dict().items())
        assert torch.get_rng_state().equal(drawn)


def test_losses_see_channels_first(train: Callable[..., nn.Module]) -> None:
    """Images and outputs of more than one axis too: methods out of papers flatten them by `view`."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
    inside: list[bool] = []

    class Watched(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            maps: Tensor = network(images)
            inside.append(not maps.is_contiguous())
            return maps

    watched = Watched()
    watched.net = network

    def loss(batch: Batch) -> Tensor:
        assert batch.images.is_contiguous()
        return watched(batch.images).view(len(batch.images), -1).square().mean()

    train(watched, loss)
    assert inside
    assert all(inside)


def test_a_network_that_is_listened_to_stays_as_it_is(train: Callable[..., nn.Module]) -> None:
    """Distillers read feature maps by hooks, and gradients go to what they read."""
    network, caught = make_network(), []
    handle = network[1].register_forward_hook(lambda layer, given, maps: caught.append(maps.view(-1)))
    train(network)
    handle.remove()
    assert caught
    assert not any(network[2].last)  # type: ignore[arg-type]


def test_a_network_that_wants_more_than_images_is_trained(train: Callable[..., nn.Module]) -> None:
    """Only its loss knows how to call it, so the trial cannot; what is no image is handed on."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_network()

        def forward(self, images: Tensor, scale: float) -> Tensor:
            scores: Tensor = scale * self.net(images)
            return scores

    network = Scaled()
    train(network, lambda batch: batch.loss(network(batch.images, 2.0)))
    assert not any(network.net[2].last)  # type: ignore[arg-type]
    plain = make_network().eval()
    with channels_last(plain, (3, 8, 8), CPU):
        plain[2].last.clear()  # type: ignore[operator]
        plain(torch.zeros(2, 3, 8, 8))
        assert plain[2].last == [True]


def test_an_error_inside_takes_the_layout_away(train: Callable[..., nn.Module]) -> None:
    """What is wrong with a loss is said as it is."""
    network = make_network()

    def loss(batch: Batch) -> Tensor:
        raise RuntimeError("nothing to learn from")

    with pytest.raises(RuntimeError, match="nothing to learn from"):
        train(network, loss)
    assert not network._forward_pre_hooks


@pytest.mark.parametrize("views", [False, True])
def test_networks_are_judged_in_their_layout(split: MemorySplit, views: bool) -> None:
    """Once a batch, and with the same scores."""
    network = make_network(views).eval()
    found = evaluate(network, split, INFO, 16)
    assert network[2].last == [not views] + [not views] * 3 if not views else [True, False, False, False]
    with torch.no_grad():
        images = (split.images.float() / 255 - 0.5) / 0.25
        expected = nn.functional.cross_entropy(network(images), split.labels)
    assert found.loss == pytest.approx(float(expected), rel=1e-5)


def test_what_is_no_module_is_called_as_it_is(split: MemorySplit, task: Task) -> None:
    """Exported files are functions."""
    assert evaluate(lambda images: images.flatten(1)[:, :3], split, INFO).count == len(split)
