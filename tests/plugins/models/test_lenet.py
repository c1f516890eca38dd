"""LeNet: its size, its shapes, its options."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build


def _info(shape: tuple[int, int, int], classes: int = 10) -> TaskInfo:
    names = tuple(map(str, range(classes)))
    return TaskInfo("task", names, names, shape, (0.5,) * shape[0], (0.25,) * shape[0])


@pytest.fixture(scope="module")
def make(plugins: Plugins) -> Any:
    """Build a network on the meta device from options."""

    def make_network(task: TaskInfo, **options: Any) -> nn.Module:
        with torch.device("meta"):
            return build(plugins.load("model", "lenet"), options, "test").build(task)  # type: ignore[no-any-return]

    return make_network


def test_size_worked_by_hand(make: Any) -> None:
    """28 × 28 images leave 7 × 7 pixels of 50 channels; normalisation adds two parameters a channel."""
    layers = 20 * 25 + 20, 50 * 20 * 25 + 50, 500 * 50 * 49 + 500, 10 * 500 + 10
    plain = make(_info((1, 28, 28)), normalise=False)
    assert sum(p.numel() for p in plain.parameters()) == sum(layers) == 1_256_080
    normalised = make(_info((1, 28, 28)))
    assert sum(p.numel() for p in normalised.parameters()) == sum(layers) + 2 * (20 + 50 + 500)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (3, 32, 32), (2, 3, 9)])
def test_images_of_any_size_give_class_scores(make: Any, shape: tuple[int, int, int]) -> None:
    """Every size and number of channels gives one score for each class."""
    network = make(_info(shape, 7), width=1, hidden=3)
    assert network(torch.empty(2, *shape, device="meta")).shape == (2, 7)


def test_options_choose_layers(make: Any) -> None:
    """Normalisation and dropout are there when they are asked for, dropout before the head."""
    kinds = [type(m) for m in make(_info((1, 28, 28)), normalise=False, dropout=0.5).children()]
    block = [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert kinds == [*block, *block, nn.Flatten, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]
    assert nn.Dropout not in [type(m) for m in make(_info((1, 28, 28))).children()]


def test_family_keeps_the_shape(plugins: Plugins) -> None:
    """Networks of the family have other widths, with as many hidden units for each channel."""
    family = plugins.load("model", "lenet")(width=2, hidden=50).family()
    assert [(m.width, m.hidden) for m in family[:3]] == [(1, 25), (2, 50), (3, 75)]
    assert family[-1].width == 15


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("hidden", 0), ("dropout", 1.0)])
def test_wrong_options_are_refused(plugins: Plugins, option: str, value: float) -> None:
    """Options out of range are named."""
    with pytest.raises(RecipeError, match=f"{option}: '{option}' must be"):
        build(plugins.load("model", "lenet"), {option: value}, "test")
