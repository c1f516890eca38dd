"""LeNet: two blocks of 5 × 5 convolution and 2 × 2 pooling, a hidden layer and a head; the network of the
literature on adapting digits.

Reference:
    LeCun, Bottou, Bengio & Haffner, Gradient-based learning applied to document recognition, 1998, section
    II.B. doi:10.1109/5.726791
Differs:
    ReLU, max-pooling, one hidden layer and the widths of Caffe's version, as in domain adaptation since
    (Ganin et al. 2016, arXiv:1505.07818); batch normalisation, unless it is switched off. Convolutions are
    padded and pooling stops at one pixel, so that images of any size are taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, field, frozen
from attrs.validators import ge, lt
from torch import nn

from learnforge import Model, TaskInfo, hookimpl


@frozen
class LeNet(Model):
    """Two convolutional blocks and a hidden layer.

    Args:
        width: Channels of the first block, from 1; the second has 2.5 times as many.
        hidden: Units of the hidden layer, from 1.
        normalise: Normalise each layer but the head by batches.
        dropout: Share of hidden units that is left out in training, in [0, 1).
    """

    width: int = field(default=20, validator=ge(1))
    hidden: int = field(default=500, validator=ge(1))
    normalise: bool = True
    dropout: float = field(default=0.0, validator=[ge(0.0), lt(1.0)])

    def family(self) -> Sequence[Model]:
        share = self.hidden / self.width
        return [
            evolve(self, width=width, hidden=max(1, round(share * width)))
            for width in range(1, 8 * self.width)
        ]

    def build(self, task: TaskInfo) -> nn.Module:
        inside, height, pixels = task.input_shape
        layers: list[nn.Module] = []
        for width in (self.width, max(1, self.width * 5 // 2)):
            layers += [nn.Conv2d(inside, width, 5, padding=2), *self._normalised(nn.BatchNorm2d, width)]
            if min(height, pixels) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, pixels = height // 2, pixels // 2
            inside = width
        layers += [
            nn.Flatten(),
            nn.Linear(inside * height * pixels, self.hidden),
            *self._normalised(nn.BatchNorm1d, self.hidden),
        ]
        if self.dropout:
            layers.append(nn.Dropout(self.dropout))
        return nn.Sequential(*layers, nn.Linear(self.hidden, task.outputs))

    def _normalised(self, layer: type[nn.BatchNorm1d | nn.BatchNorm2d], width: int) -> list[nn.Module]:
        """Return what comes after a layer of so many channels."""
        return [*([layer(width)] if self.normalise else []), nn.ReLU(inplace=True)]


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"lenet": LeNet}
