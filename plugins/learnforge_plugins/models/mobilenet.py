"""MobileNetV2 with a width multiplier and a stem for small images.

Inverted residual blocks: 1 × 1 expansion, 3 × 3 depthwise convolution, linear 1 × 1 projection, with a
shortcut where the shape stays. Every width is multiplied by `width` and rounded to a multiple of `divisor`.

Reference:
    Sandler, Howard, Zhu, Zhmoginov & Chen, MobileNetV2: inverted residuals and linear bottlenecks, 2018,
    table 2. arXiv:1801.04381
Differs:
    Below 128 pixels the first one or two strides are left out, and below 16 the last four stages, so that
    features keep an extent. The last convolution shrinks with `width` below 1 as the others do, where the
    paper keeps its 1,280 channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor, nn

from learnforge import Model, TaskInfo, hookimpl

# table 2: expansion t, channels c, blocks n, stride s
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_STEM = 32
_LAST = 1280


@frozen
class MobileNet(Model):
    """MobileNetV2.

    Args:
        width: Width multiplier, in (0, 4].
        depth: Multiplier on the number of blocks in a stage, in (0, 4].
        divisor: Widths are multiples of it, from 1.
        dropout: Share of features dropped before the head, in [0, 1).
    """

    width: float = field(default=1.0, validator=[gt(0.0), le(4.0)])
    depth: float = field(default=1.0, validator=[gt(0.0), le(4.0)])
    divisor: int = field(default=4, validator=ge(1))
    dropout: float = field(default=0.0, validator=[ge(0.0), le(0.99)])

    def family(self) -> Sequence[Model]:
        return [
            evolve(self, width=self.width * factor / 4)
            for factor in range(1, 33)
            if self.width * factor <= 16
        ]

    def build(self, task: TaskInfo) -> nn.Module:
        channels, height, pixels = task.input_shape
        side = min(height, pixels)
        unhalved = 0 if side >= 128 else 1 if side >= 64 else 2
        stages = _STAGES if side >= 16 else _STAGES[:3]
        inside = self._widen(_STEM)
        layers: list[nn.Module] = [
            _conv(channels, inside, 3, 1 if unhalved > 0 else 2),
            nn.ReLU6(inplace=True),
        ]
        halvings = 1
        for expansion, outside, blocks, stride in stages:
            outside = self._widen(outside)
            if stride == 2:
                stride, halvings = (1 if halvings < unhalved else 2), halvings + 1
            for block in range(max(1, round(blocks * self.depth))):
                layers.append(Bottleneck(inside, outside, expansion, stride if block == 0 else 1))
                inside = outside
        last = self._widen(_LAST) if side >= 16 else inside * 4
        layers += [_conv(inside, last, 1), nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, nn.Dropout(self.dropout), nn.Linear(last, task.outputs))

    def _widen(self, channels: int) -> int:
        return max(self.divisor, round(channels * self.width / self.divisor) * self.divisor)


class Bottleneck(nn.Module):
    """An inverted residual block (Sandler et al., table 1)."""

    def __init__(self, inside: int, outside: int, expansion: int, stride: int):
        super().__init__()
        inner = inside * expansion
        expand = [_conv(inside, inner, 1), nn.ReLU6(inplace=True)] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand, _conv(inner, inner, 3, stride, inner), nn.ReLU6(inplace=True), _conv(inner, outside, 1)
        )
        self.has_shortcut = stride == 1 and inside == outside

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.body(images)
        return images + result if self.has_shortcut else result


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside))


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"mobilenet": MobileNet}
