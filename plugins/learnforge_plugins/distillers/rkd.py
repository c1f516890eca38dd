"""Relational distillation: the student places images among each other as the teacher does.

    loss = labels * CE(s, y) + distance * L_D + angle * L_A
    L_D = mean over pairs    of huber(psi_D(s_i, s_j), psi_D(t_i, t_j))              (equation 6)
    L_A = mean over triplets of huber(psi_A(s_i, s_j, s_k), psi_A(t_i, t_j, t_k))    (equation 9)
    psi_D(a, b) = ||a - b|| / mu, mu the mean distance of the batch                  (equations 4 and 5)
    psi_A(a, b, c) = cosine of the angle at b                                        (equation 7)

s and t are embeddings, what goes into the last layer; their widths may differ, since only distances and
angles within a network are compared.

Reference:
    Park, Kim, Lu & Cho, Relational knowledge distillation, 2019. arXiv:1904.05068
Differs:
    Embeddings are not scaled to length 1, as in the authors' experiments on classification.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from learnforge import Batch, Distiller, Layers, Outputs, hookimpl
from learnforge_kit import label_loss, pool

_TAP = "embedding"
_EPSILON = 1e-12


@frozen
class RKD(Distiller):
    """Relational knowledge distillation of Park et al.

    Args:
        distance: Weight of distances of pairs, from 0.
        angle: Weight of angles of triplets, from 0.
        labels: Weight of the cross-entropy with the labels, from 0.
    """

    distance: float = field(default=25.0, validator=ge(0.0))
    angle: float = field(default=50.0, validator=ge(0.0))
    forms: ClassVar[frozenset[str] | None] = None

    labels: float = field(default=1.0, validator=ge(0.0))

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = {"labels": 0.0}

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        return [_TAP], [_TAP]

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        student_features, teacher_features = (
            pool(outputs.taps[_TAP]).float() for outputs in (student, teacher)
        )
        with torch.autocast(
            student_features.device.type, enabled=False
        ):  # small differences need single precision
            pairs = F.smooth_l1_loss(_distances(student_features), _distances(teacher_features))
            triplets = F.smooth_l1_loss(_angles(student_features), _angles(teacher_features))
        return self.labels * label_loss(student, batch) + self.distance * pairs + self.angle * triplets


def _distances(points: Tensor) -> Tensor:
    """Return psi_D of all pairs: [batch, batch], zeros on the diagonal."""
    squares = (points[:, None] - points[None]).square().sum(2)
    distances = squares.clamp(min=_EPSILON).sqrt() * (squares > _EPSILON)  # the root has no slope at 0
    count = (distances > 0).sum().clamp(min=1)
    return distances / (distances.sum() / count).clamp(min=_EPSILON)


def _angles(points: Tensor) -> Tensor:
    """Return psi_A of all triplets: [batch (b), batch (a), batch (c)], 0 where two points coincide."""
    edges = points[None] - points[:, None]
    squares = edges.square().sum(2, keepdim=True)
    units = edges / squares.clamp(min=_EPSILON).sqrt() * (squares > _EPSILON)
    return units @ units.transpose(1, 2)


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"rkd": RKD}
