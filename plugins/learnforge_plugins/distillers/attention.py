"""Attention transfer: the student looks where the teacher looks.

    loss = labels * CE(s, y) + weight * sum over pairs of |Q^s / |Q^s| - Q^t / |Q^t||^2 / pixels (equation 2)
    Q = mean over channels of |f|^p, flattened: where in the image a layer is active

Channels may differ between student and teacher; the larger of two feature maps is averaged down to
the smaller.

Reference:
    Zagoruyko & Komodakis, Paying more attention to attention: improving the performance of convolutional
    neural networks via attention transfer, 2017. arXiv:1612.03928
Differs:
    The square of the distance, averaged over pixels, as in the authors' code; `weight` is their beta.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from learnforge import Batch, Distiller, Layers, Outputs, StageError, hookimpl
from learnforge_kit import Pairs, label_loss, match_extent, pair_stages


@frozen
class Attention(Distiller):
    """Attention transfer of Zagoruyko & Komodakis.

    Args:
        pairs: {student layer: teacher layer}, by name or as `stage 2`; all stages, paired from the last,
            by default.
        weight: Weight of the attention maps, from 0.
        power: p, from 1; the higher, the more the most active place counts.
        labels: Weight of the cross-entropy with the labels, from 0.
    """

    pairs: Pairs = field(factory=dict)
    weight: float = field(default=1000.0, validator=ge(0.0))
    power: float = field(default=2.0, validator=ge(1.0))
    forms: ClassVar[frozenset[str] | None] = None

    labels: float = field(default=1.0, validator=ge(0.0))

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = {"labels": 0.0}

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        pairs = self.pairs or pair_stages(student, teacher)
        for layers, names in ((student, pairs.keys()), (teacher, pairs.values())):
            for name in names:
                shape = layers.shapes.get(layers.find(name))
                if shape is not None and len(shape) != 3:
                    raise StageError(
                        f"attention needs a layer with a height and a width, {name!r} puts out {list(shape)}"
                    )
        return list(pairs.keys()), list(pairs.values())

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        pairs = self.pairs or pair_stages(student.layers, teacher.layers)
        distances = []
        for one, other in pairs.items():
            student_map, teacher_map = match_extent(student.taps[one], teacher.taps[other])
            distances.append(
                (_attend(student_map.float(), self.power) - _attend(teacher_map.float(), self.power))
                .square()
                .mean()
            )
        return self.labels * label_loss(student, batch) + self.weight * torch.stack(distances).sum()


def _attend(features: Tensor, power: float) -> Tensor:
    """Return Q / ||Q||: [batch, pixel]."""
    return F.normalize(features.abs().pow(power).mean(1).flatten(1))


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"attention": Attention}
