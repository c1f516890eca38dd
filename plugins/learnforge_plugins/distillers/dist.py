"""Relations in place of values: the student's probabilities need only correlate with the teacher's.

    loss = labels * CE(s, y) + tau^2 * (beta * inter + gamma * intra)
    inter = 1 - mean over images  of rho(p^s_i:, p^t_i:)     ranking of the classes of an image   (equation 8)
    intra = 1 - mean over classes of rho(p^s_:j, p^t_:j)     ranking of the images for a class    (equation 9)

p is the softmax of the class scores over tau, rho Pearson's correlation; so a student's scores may be scaled
and shifted, which a strong teacher's values would forbid.

Reference:
    Huang, You, Wang, Qian & Xu, Knowledge distillation from a stronger teacher, 2022. arXiv:2205.10536
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt
from torch import Tensor

from learnforge import Batch, Distiller, Outputs, hookimpl
from learnforge_kit import label_loss


@frozen
class DIST(Distiller):
    """Distillation of relations by Huang et al.

    Args:
        temperature: tau, above 0; 4 for CIFAR-100, 1 for ImageNet in the paper.
        beta: Weight of the relation between classes, from 0.
        gamma: Weight of the relation within a class, from 0.
        labels: Weight of the cross-entropy with the labels, from 0.
    """

    temperature: float = field(default=4.0, validator=gt(0.0))
    beta: float = field(default=2.0, validator=ge(0.0))
    gamma: float = field(default=2.0, validator=ge(0.0))
    labels: float = field(default=1.0, validator=ge(0.0))

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = {"labels": 0.0}

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        tau = self.temperature
        student_shares, teacher_shares = ((o.logits.float() / tau).softmax(1) for o in (student, teacher))
        inter = 1 - _correlation(student_shares, teacher_shares).mean()
        intra = 1 - _correlation(student_shares.T, teacher_shares.T).mean()
        soft = tau * tau * (self.beta * inter + self.gamma * intra)
        return self.labels * label_loss(student, batch) + soft


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation of each row with its counterpart: [row]; 0 where a row is constant."""
    one, other = (rows - rows.mean(1, keepdim=True) for rows in (first, second))
    return F.cosine_similarity(one, other, dim=1)


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"dist": DIST}
