"""CIFAR-style residual networks: the published sizes, shortcuts and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build


def _info(shape: tuple[int, int, int] = (3, 32, 32), classes: int = 10) -> TaskInfo:
    names = tuple(map(str, range(classes)))
    return TaskInfo("task", names, names, shape, (0.5,) * shape[0], (0.25,) * shape[0])


@pytest.fixture(scope="module")
def make(plugins: Plugins) -> Any:
    """Build a network from options."""

    def make_network(task: TaskInfo, **options: Any) -> nn.Module:
        return build(plugins.load("model", "resnet"), options, "test").build(task)  # type: ignore[no-any-return]

    return make_network


@pytest.mark.parametrize(
    ("depth", "parameters"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_sizes_of_the_paper(make: Any, depth: int, parameters: int) -> None:
    """On CIFAR-10, with parameter-free shortcuts, depths 20 to 110 have 0.27 to 1.7 million parameters
    (table 6).
    """
    with torch.device("meta"):
        network = make(_info(), depth=depth)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [(20, 1, 278_324), (56, 1, 861_620), (110, 1, 1_736_564), (8, 4, 1_233_540), (32, 4, 7_433_860)],
)
def test_sizes_of_the_distillation_literature(make: Any, depth: int, width: int, parameters: int) -> None:
    """On CIFAR-100, with projections, resnet20, 56, 110, 8x4 and 32x4 have the sizes that Tian et al. use."""
    with torch.device("meta"):
        network = make(_info(classes=100), depth=depth, width=width, projection=True)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_depth_counts_layers(make: Any) -> None:
    """Convolutions and the head together are as many as the name says."""
    with torch.device("meta"):
        for depth in (8, 20, 56):
            layers = [
                m for m in make(_info(), depth=depth).modules() if isinstance(m, (nn.Conv2d, nn.Linear))
            ]
            assert len(layers) == depth


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224), (2, 5, 9)])
def test_images_of_any_size_give_class_scores(
    make: Any, shape: tuple[int, int, int], projection: bool
) -> None:
    """Every size and number of channels gives one score for each class."""
    with torch.device("meta"):
        network = make(_info(shape, 7), depth=8, projection=projection)
        assert network(torch.empty(2, *shape)).shape == (2, 7)


def test_shortcut_subsamples_and_pads(make: Any) -> None:
    """Where a stage begins, a block without its body is every second pixel with zeros as new channels
    (option A).
    """
    block = next(m for m in make(_info(), depth=8).modules() if getattr(m, "stride", 0) == 2)
    nn.init.zeros_(block.body[-1].weight)
    images = torch.rand(1, 16, 6, 6)
    found = block.eval()(images)
    assert found.shape == (1, 32, 3, 3)
    assert torch.equal(found[:, :16], images[:, :, ::2, ::2])
    assert not found[:, 16:].any()


def test_unknown_depth_is_refused(plugins: Plugins) -> None:
    """A depth that is not 6n + 2 is refused with those that there are."""
    with pytest.raises(RecipeError, match=r"depth: must be one of 8, 14, 20, 32, 44, 56, 110, got 18"):
        build(plugins.load("model", "resnet"), {"depth": 18}, "test")
