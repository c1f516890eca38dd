"""Conv4: its size, its shapes, and pooling that stops in time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build


def _info(shape: tuple[int, int, int], classes: int = 5) -> TaskInfo:
    names = tuple(map(str, range(classes)))
    return TaskInfo("task", names, names, shape, (0.5,) * shape[0], (0.25,) * shape[0])


@pytest.fixture(scope="module")
def make(plugins: Plugins) -> Any:
    """Build a network on the meta device from options."""

    def make_network(task: TaskInfo, **options: Any) -> nn.Module:
        with torch.device("meta"):
            return build(plugins.load("model", "conv4"), options, "test").build(task)  # type: ignore[no-any-return]

    return make_network


def test_size_worked_by_hand(make: Any) -> None:
    """With w channels, blocks have 9 · in · w + 3 w parameters, and the head (w + 1) for each class."""
    network = make(_info((3, 84, 84)))
    expected = (9 * 3 * 64 + 3 * 64) + 3 * (9 * 64 * 64 + 3 * 64) + 65 * 5
    assert sum(p.numel() for p in network.parameters()) == expected == 113_413


@pytest.mark.parametrize(("side", "pools"), [(84, 4), (28, 4), (8, 3), (4, 2), (1, 0)])
def test_pooling_stops_at_one_pixel(make: Any, side: int, pools: int) -> None:
    """A block pools only while there are two pixels to pool."""
    network = make(_info((1, side, side)))
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == pools
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 5)


def test_block_is_that_of_the_paper(make: Any) -> None:
    """Each of the four blocks is a convolution, batch normalisation, ReLU and 2 × 2 max-pooling, in
    this order.
    """
    layers = [type(m) for m in make(_info((3, 84, 84))).children()]
    assert layers[:16] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d] * 4


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224), (2, 3, 9)])
def test_images_of_any_size_give_class_scores(make: Any, shape: tuple[int, int, int]) -> None:
    """Every size and number of channels gives one score for each class."""
    network = make(_info(shape, 7), width=8, blocks=5)
    assert sum(isinstance(m, nn.Conv2d) for m in network.modules()) == 5
    assert network(torch.empty(2, *shape, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("option", ["width", "blocks"])
def test_wrong_options_are_refused(plugins: Plugins, option: str) -> None:
    """A network needs at least one block of at least one channel."""
    with pytest.raises(RecipeError, match=rf"{option}: '{option}' must be >= 1: 0"):
        build(plugins.load("model", "conv4"), {option: 0}, "test")


def test_strides_halve_in_place_of_pooling(make: Any) -> None:
    """28 pixels become 14, 7, 4 and 2, as in the code of MAML and Reptile; no parameter more or less."""
    network = make(_info((1, 28, 28)), downsample="stride")
    assert not any(isinstance(m, nn.MaxPool2d) for m in network.modules())
    assert network[:12](torch.empty(2, 1, 28, 28, device="meta")).shape == (2, 64, 2, 2)
    sizes = [sum(p.numel() for p in n.parameters()) for n in (network, make(_info((1, 28, 28))))]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(
    ("shape", "downsample", "features"),
    [
        ((3, 84, 84), "pool", 5 * 5 * 64),  # miniImageNet in the papers
        ((1, 28, 28), "stride", 2 * 2 * 64),  # Omniglot in Reptile's code
        ((1, 28, 28), "pool", 64),
        ((2, 3, 9), "stride", 1 * 1 * 64),
        ((2, 9, 33), "pool", 1 * 4 * 64),
    ],
)
def test_flattened_head_sees_every_position(
    make: Any, shape: tuple[int, int, int], downsample: str, features: int
) -> None:
    """The head has a weight for every channel at every position that is left."""
    network = make(_info(shape), downsample=downsample, flatten=True)
    assert network[-1].in_features == features
    assert network(torch.empty(2, *shape, device="meta")).shape == (2, 5)
