"""Residual networks for small images: a 3 × 3 stem and three stages of 16, 32 and 64 channels.

Depth 6n + 2 has n blocks in each stage. Where the shape changes, the shortcut takes every second pixel and
fills up new channels with zeros (option A), or is a 1 × 1 convolution (option B). `resnet8x4` and
`resnet32x4` of the distillation literature are depth 8 and 32 with `width = 4` and `projection = true`.

Reference:
    He, Zhang, Ren & Sun, Deep residual learning for image recognition, 2015, section 4.2. arXiv:1512.03385
    Tian, Krishnan & Isola, Contrastive representation distillation, 2019, for the wide ones. arXiv:1910.10699
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import ge, in_
from torch import Tensor, nn

from learnforge import Model, TaskInfo, hookimpl

_DEPTHS: tuple[Literal[8, 14, 20, 32, 44, 56, 110], ...] = (8, 14, 20, 32, 44, 56, 110)


@frozen
class ResNet(Model):
    """CIFAR-style residual network.

    Args:
        depth: Layers: 8, 14, 20, 32, 44, 56 or 110.
        width: Factor on the widths of the three stages, from 1; the stem has 32 channels where it is above 1.
        projection: Use a 1 × 1 convolution as the shortcut where the shape changes, instead of zeros.
    """

    depth: Literal[8, 14, 20, 32, 44, 56, 110] = field(default=20, validator=in_(_DEPTHS))
    width: int = field(default=1, validator=ge(1))
    projection: bool = False

    def family(self) -> Sequence[Model]:
        return [evolve(self, depth=depth, width=width) for width in range(1, 5) for depth in _DEPTHS]

    def build(self, task: TaskInfo) -> nn.Module:
        blocks = (self.depth - 2) // 6
        inside = 16 if self.width == 1 else 32
        layers: list[nn.Module] = [
            nn.Conv2d(task.input_shape[0], inside, 3, padding=1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
        ]
        for stage, channels in enumerate((16, 32, 64)):
            outside = channels * self.width
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(BasicBlock(inside, outside, stride, self.projection))
                inside = outside
        network = nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, task.outputs)
        )
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        return network


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions with a shortcut (figure 2)."""

    def __init__(self, inside: int, outside: int, stride: int, has_projection: bool):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.stride, self.new_channels = stride, outside - inside
        changes = stride > 1 or outside != inside
        self.projection = _project(inside, outside, stride) if has_projection and changes else None

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.body(images) + self._shortcut(images), inplace=True)

    def _shortcut(self, images: Tensor) -> Tensor:
        if self.projection is not None:
            projected: Tensor = self.projection(images)
            return projected
        shortcut = images[:, :, :: self.stride, :: self.stride] if self.stride > 1 else images
        return F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels)) if self.new_channels else shortcut


def _project(inside: int, outside: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"resnet": ResNet}
