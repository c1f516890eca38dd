"""MobileNetV2: the published size, multipliers and shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build
from learnforge_kit.costs.measuring import measure_cost


def _info(shape: tuple[int, int, int] = (3, 224, 224), classes: int = 1000) -> TaskInfo:
    names = tuple(map(str, range(classes)))
    return TaskInfo("task", names, names, shape, (0.5,) * shape[0], (0.25,) * shape[0])


@pytest.fixture(scope="module")
def make(plugins: Plugins) -> Any:
    """Build a network on the meta device from options."""

    def make_network(task: TaskInfo, **options: Any) -> nn.Module:
        with torch.device("meta"):
            return build(plugins.load("model", "mobilenet"), options, "test").build(task)  # type: ignore[no-any-return]

    return make_network


def test_size_of_the_paper(make: Any) -> None:
    """At 224 × 224 with 1,000 classes there are 3.4 million parameters and 300 million multiply-adds
    (table 4).
    """
    cost = measure_cost(make(_info()), _info())
    assert cost.parameters == 3_504_872
    assert cost.macs == pytest.approx(300e6, rel=0.01)


def test_width_multiplies_every_layer(make: Any) -> None:
    """At `width = 0.5` every convolution has half its channels, rounded to multiples of `divisor`."""

    def widths(**options: Any) -> list[int]:
        return [m.out_channels for m in make(_info(), **options).modules() if isinstance(m, nn.Conv2d)]

    assert widths(width=0.5) == [width // 2 for width in widths()]
    assert widths(width=0.3, divisor=8)[0] == 8  # 32 · 0.3 = 9.6
    assert widths(width=0.01, divisor=4)[0] == 4


def test_depth_multiplies_blocks(make: Any) -> None:
    """At `depth = 2` every stage has twice its blocks, at a small one a single block."""

    def blocks(depth: float) -> int:
        return sum(hasattr(m, "has_shortcut") for m in make(_info(), depth=depth).modules())

    assert [blocks(depth) for depth in (0.01, 1.0, 2.0)] == [7, 17, 34]


def test_shortcut_where_the_shape_stays(make: Any) -> None:
    """Ten of the seventeen blocks keep their shape; without its body such a block hands on what it was
    given.
    """
    blocks = [m for m in make(_info()).modules() if hasattr(m, "has_shortcut")]
    kept = [block for block in blocks if block.has_shortcut]
    assert (len(blocks), len(kept)) == (17, 10)
    block = kept[0].to_empty(device="cpu").eval()
    for tensor in (*block.parameters(), *block.buffers()):
        tensor.data.fill_(1)
    nn.init.zeros_(block.body[-1][1].weight)
    nn.init.zeros_(block.body[-1][1].bias)
    images = torch.rand(1, 24, 4, 4)
    assert torch.equal(block(images), images)


@pytest.mark.parametrize(
    ("side", "last"), [(224, 7), (128, 4), (96, 6), (64, 4), (32, 4), (28, 4), (16, 2), (8, 4)]
)
def test_small_images_keep_an_extent(make: Any, side: int, last: int) -> None:
    """The fewer the pixels, the fewer the strides: what reaches the pooling is 2 to 7 pixels wide."""
    network = make(_info((3, side, side)))
    sizes = []
    pool = next(m for m in network.modules() if isinstance(m, nn.AdaptiveAvgPool2d))
    pool.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-1]))
    network(torch.empty(2, 3, side, side, device="meta"))
    assert sizes == [last]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224), (2, 5, 9)])
def test_images_of_any_size_give_class_scores(make: Any, shape: tuple[int, int, int]) -> None:
    """Every size and number of channels gives one score for each class."""
    network = make(_info(shape, 7), width=0.25)
    assert network(torch.empty(2, *shape, device="meta")).shape == (2, 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0.0}, r"width: 'width' must be > 0\.0"),
        ({"width": 5.0}, r"width: 'width' must be <= 4\.0"),
        ({"depth": 0.0}, r"depth: 'depth' must be > 0\.0"),
        ({"divisor": 0}, r"divisor: 'divisor' must be >= 1"),
        ({"dropout": 1.0}, r"dropout: 'dropout' must be <"),
    ],
)
def test_wrong_options_are_refused(plugins: Plugins, options: dict[str, Any], message: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=message):
        build(plugins.load("model", "mobilenet"), options, "test")
