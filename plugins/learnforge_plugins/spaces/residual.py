"""Residual networks: stages of blocks, each block a residual block, an inverted residual block or nothing.

A stage halves the resolution (but for the first) and has a width of its own; each of its blocks has an
operation and a kernel size. A block that is skipped leaves no trace in the design, and neither does the
kernel size it would have had.

Reference:
    He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2015. arXiv:1512.03385
    Sandler, Howard, Zhu, Zhmoginov & Chen, MobileNetV2: inverted residuals and linear bottlenecks, 2018.
    arXiv:1801.04381
"""

from __future__ import annotations

from typing import Any

from attrs import field, frozen
from attrs.validators import deep_iterable, ge, le, min_len
from torch import Tensor, nn

from learnforge import Pick, Space, TaskInfo, hookimpl


def _odd(instance: object, attribute: Any, value: int) -> None:
    if value % 2 == 0 or value < 1:
        raise ValueError(f"{attribute.name!r} must hold odd numbers from 1, got {value}")


@frozen
class Residual(Space):
    """Residual networks for images of any size.

    Args:
        stages: Stages, from 1; each but the first halves the resolution.
        blocks: Most blocks in a stage, from 1.
        min_width: Fewest channels of a stage, from 1.
        max_width: Most channels of a stage.
        width_step: Distance between the widths that can be chosen, from 1.
        kernels: Kernel sizes that can be chosen, odd.
        expansions: Expansions of inverted residual blocks that can be chosen, from 1.
    """

    stages: int = field(default=3, validator=[ge(1), le(64)])
    blocks: int = field(default=2, validator=[ge(1), le(64)])
    min_width: int = field(default=8, validator=ge(1))
    max_width: int = field(default=64, validator=ge(1))
    width_step: int = field(default=8, validator=ge(1))
    kernels: tuple[int, ...] = field(default=(3, 5), validator=[min_len(1), deep_iterable(_odd)])
    expansions: tuple[int, ...] = field(default=(2, 4), validator=[min_len(1), deep_iterable(ge(1))])

    def __attrs_post_init__(self) -> None:
        if self.max_width < self.min_width:
            raise ValueError(f"max_width must be at least min_width = {self.min_width}, got {self.max_width}")

    def design(self, pick: Pick) -> dict[str, Any]:
        widths = (self.max_width - self.min_width) // self.width_step
        stages = []
        for s in range(self.stages):
            width = self.min_width + self.width_step * pick.integer(f"stage{s}.width", 0, widths)
            blocks = [self._block(pick, f"stage{s}.block{b}") for b in range(self.blocks)]
            stages.append({"width": width, "blocks": [block for block in blocks if block is not None]})
        return {"stages": stages}

    def _block(self, pick: Pick, name: str) -> dict[str, Any] | None:
        op = pick.choice(f"{name}.op", ("residual", "inverted", "skip"))
        if op == "skip":
            return None
        block = {"op": op, "kernel": pick.choice(f"{name}.kernel", self.kernels)}
        if op == "inverted":
            block["expansion"] = pick.choice(f"{name}.expansion", self.expansions)
        return block

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        channels = task.input_shape[0]
        width = design["stages"][0]["width"]
        layers: list[nn.Module] = [_conv_norm(channels, width, 3), nn.ReLU(inplace=True)]
        for number, stage in enumerate(design["stages"]):
            if number > 0:
                layers += [_conv_norm(width, stage["width"], 3, stride=2), nn.ReLU(inplace=True)]
                width = stage["width"]
            layers += [_make_block(block, width) for block in stage["blocks"]]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, task.outputs))


class ResidualBlock(nn.Module):
    """Two convolutions with a shortcut around them (He et al., figure 2)."""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.body = nn.Sequential(
            _conv_norm(width, width, kernel), nn.ReLU(inplace=True), _conv_norm(width, width, kernel)
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.activation(images + self.body(images))
        return result


class InvertedBlock(nn.Module):
    """Expansion, depthwise convolution, linear projection, with a shortcut around them (Sandler et al.,
    figure 3b).
    """

    def __init__(self, width: int, kernel: int, expansion: int):
        super().__init__()
        inner = width * expansion
        self.body = nn.Sequential(
            _conv_norm(width, inner, 1),
            nn.ReLU(inplace=True),
            _conv_norm(inner, inner, kernel, groups=inner),
            nn.ReLU(inplace=True),
            _conv_norm(inner, width, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = images + self.body(images)
        return result


def _make_block(block: dict[str, Any], width: int) -> nn.Module:
    if block["op"] == "residual":
        return ResidualBlock(width, block["kernel"])
    return InvertedBlock(width, block["kernel"], block["expansion"])


def _conv_norm(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


@hookimpl
def learnforge_spaces() -> dict[str, type[Space]]:
    return {"residual": Residual}
