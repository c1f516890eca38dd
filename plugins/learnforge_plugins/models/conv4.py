"""Conv4: four blocks of 3 × 3 convolution, batch normalisation, ReLU and 2 × 2 max-pooling; the network of
the few-shot literature.

Reference:
    Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, Matching networks for one shot learning, 2016,
    section 4.1. arXiv:1606.04080
Differs:
    A block does not pool once the features are 1 pixel high or wide. What is left is averaged, where the
    paper flattens it, as `flatten` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import evolve, field, frozen
from attrs.validators import ge, in_
from torch import nn

from learnforge import Model, TaskInfo, hookimpl


@frozen
class Conv4(Model):
    """Four convolutional blocks.

    Args:
        width: Channels of every block, from 1; 64 in the literature, 32 in MAML on miniImageNet.
        blocks: Blocks, from 1.
        downsample: What halves height and width: `pool`, 2 × 2 max-pooling, or `stride`, convolutions with
            stride 2 and no pooling, as MAML and Reptile have it on Omniglot; about a quarter of the work.
        flatten: Whether the head sees every position of the last features, as in the paper and in Reptile, or
            their average over height and width, as in MAML with strides.
    """

    width: int = field(default=64, validator=ge(1))
    blocks: int = field(default=4, validator=ge(1))
    downsample: Literal["pool", "stride"] = field(default="pool", validator=in_(("pool", "stride")))
    flatten: bool = False

    def family(self) -> Sequence[Model]:
        return [evolve(self, width=width) for width in range(1, 8 * self.width)]

    def build(self, task: TaskInfo) -> nn.Module:
        inside, height, pixels = task.input_shape
        strides = self.downsample == "stride"
        layers: list[nn.Module] = []
        for _ in range(self.blocks):
            layers += [
                nn.Conv2d(inside, self.width, 3, 2 if strides else 1, padding=1),
                nn.BatchNorm2d(self.width),
                nn.ReLU(inplace=True),
            ]
            inside = self.width
            if strides:
                height, pixels = (height + 1) // 2, (pixels + 1) // 2
            elif min(height, pixels) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, pixels = height // 2, pixels // 2
        if not self.flatten:
            layers.append(nn.AdaptiveAvgPool2d(1))
            height = pixels = 1
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inside * height * pixels, task.outputs))


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"conv4": Conv4}
