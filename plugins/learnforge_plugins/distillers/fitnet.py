"""Hints: the student's features in the middle of the network shall predict the teacher's.

    loss = labels * CE(s, y) + weight * mean over pairs of || r(f^s) - f^t ||^2 / elements      (equation 3)

f are feature maps and r a 1 × 1 convolution to the teacher's channels, trained with the student and dropped.

Reference:
    Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta & Bengio, FitNets: hints for thin deep nets, 2015.
    arXiv:1412.6550
Differs:
    Hints and labels are learnt together, as is usual since Tian et al. (2019), where the paper learns the
    hint first; the square is averaged over elements. The larger of two feature maps is averaged down to the
    smaller one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from learnforge import Batch, Distiller, Layers, Outputs, Task, hookimpl
from learnforge_kit import Connector, Pairs, label_loss, pair_stages


@frozen
class FitNet(Distiller):
    """Hints of Romero et al.

    Args:
        pairs: {student layer: teacher layer}, by name or as `stage 2`; the middle stages by default.
        weight: Weight of the hints, from 0.
        labels: Weight of the cross-entropy with the labels, from 0.
    """

    pairs: Pairs = field(factory=dict)
    weight: float = field(default=100.0, validator=ge(0.0))
    forms: ClassVar[frozenset[str] | None] = None

    labels: float = field(default=1.0, validator=ge(0.0))

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        pairs = self.pair(student, teacher)
        return [name for name, _ in pairs], [name for _, name in pairs]

    def pair(self, student: Layers | None, teacher: Layers | None) -> list[tuple[str, str]]:
        """Return what is paired."""
        if self.pairs:
            return list(self.pairs.items())
        stages = list(pair_stages(student, teacher).items())
        return stages[len(stages) // 2 :][:1]

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> _Hints:
        return _Hints(self, student, teacher)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        raise NotImplementedError("the criterion has the connectors")


class _Hints(nn.Module):
    """The loss with its connectors."""

    def __init__(self, method: FitNet, student: Outputs, teacher: Outputs):
        super().__init__()
        self.method = method
        self.pairs = method.pair(student.layers, teacher.layers)
        self.connectors = nn.ModuleList(Connector(student.taps[o], teacher.taps[k]) for o, k in self.pairs)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        distances = []
        for connector, (student_layer, teacher_layer) in zip(self.connectors, self.pairs, strict=True):
            guess, hint = connector(student.taps[student_layer], teacher.taps[teacher_layer])
            distances.append((guess - hint).square().mean())
        hints = torch.stack(distances).mean()
        return self.method.labels * label_loss(student, batch) + self.method.weight * hints


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"fitnet": FitNet}
