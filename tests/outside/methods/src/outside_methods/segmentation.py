"""Semantic segmentation: a class for each pixel, and a small network that keeps the resolution.

    loss = mean cross-entropy over pixels
    mIoU = mean over classes of |predicted and true| / |predicted or true|, over all pixels of a split

Reference:
    Long, Shelhamer & Darrell, Fully convolutional networks for semantic segmentation, 2015. arXiv:1411.4038
    Everingham et al., The Pascal visual object classes challenge, 2010. doi:10.1007/s11263-009-0275-4
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from learnforge import Form, Model, Task, TaskInfo, hookimpl


@frozen
class Segmentation(Form):
    """A class for each pixel, int64 [batch, row, column]; outputs are scores [batch, class, row, column]."""

    measured: ClassVar[Sequence[str]] = ("miou", "pixel_accuracy")
    meaning: ClassVar[str] = "class scores of each pixel before the softmax"

    def outputs(self, task: TaskInfo) -> tuple[int, ...]:
        return (len(task.classes), *task.input_shape[1:])

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        count = outputs.shape[1]
        pairs = targets.flatten() * count + outputs.argmax(1).flatten()
        table = torch.bincount(pairs, minlength=count**2).view(count, count).double()
        both, either = table.diagonal(), table.sum(0) + table.sum(1) - table.diagonal()
        shares = both[either > 0] / either[either > 0]
        return {"miou": float(shares.mean()), "pixel_accuracy": float(both.sum() / table.sum())}

    def fault(self, task: Task) -> str:
        labels, shape = task.train.labels, task.info.input_shape[1:]
        if labels.is_floating_point() or tuple(labels.shape[1:]) != tuple(shape):
            want = f"int64 [image, {', '.join(map(str, shape))}]"
            return f"labels must be {want}, a class for each pixel, got {labels.dtype} {list(labels.shape)}"
        return ""


@frozen
class FCN(Model):
    """Convolutions that keep the resolution, and one of 1 × 1 for the scores.

    Args:
        width: Channels, from 1.
        layers: Convolutions before the last, from 1.
    """

    forms: ClassVar[frozenset[str] | None] = frozenset({"segmentation"})

    width: int = field(default=16, validator=ge(1))
    layers: int = field(default=2, validator=ge(1))

    def build(self, task: TaskInfo) -> nn.Module:
        channels, layers = task.input_shape[0], list[nn.Module]()
        for _ in range(self.layers):
            layers += [nn.Conv2d(channels, self.width, 3, padding=1), nn.BatchNorm2d(self.width), nn.ReLU()]
            channels = self.width
        return nn.Sequential(*layers, nn.Conv2d(channels, task.outputs, 1))


@hookimpl
def learnforge_forms() -> dict[str, type[Form]]:
    return {"segmentation": Segmentation}


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"fcn": FCN}
