"""Logit standardisation: student and teacher are compared by the shape of their scores, not by their size.

    loss = labels * CE(s, y) + weight * T^2 * KL(softmax(Z(t) / T) || softmax(Z(s) / T))
    Z(z) = (z - mean(z)) / (std(z) + epsilon)              over the classes of an image     (equation 12)

A shared temperature forces the student to match the range of the teacher's scores; with Z it has only to
match their order and proportions (section 3.3).

Reference:
    Sun, Ren, Li, Wang & Cao, Logit standardization in knowledge distillation, 2024. arXiv:2403.01427
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

_EPSILON = 1e-7


@frozen
class LogitStd(Distiller):
    """Distillation of standardised scores by Sun et al.

    Args:
        temperature: T, the base temperature, above 0.
        weight: Weight of the teacher, from 0.
        labels: Weight of the cross-entropy with the labels, from 0.
    """

    temperature: float = field(default=2.0, validator=gt(0.0))
    weight: float = field(default=9.0, validator=ge(0.0))
    labels: float = field(default=0.1, validator=ge(0.0))

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = {"labels": 0.0}

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        t = self.temperature
        student_logs, teacher_logs = (
            (_standardise(o.logits.float()) / t).log_softmax(1) for o in (student, teacher)
        )
        soft = t * t * F.kl_div(student_logs, teacher_logs, log_target=True, reduction="batchmean")
        return self.labels * label_loss(student, batch) + self.weight * soft


def _standardise(scores: Tensor) -> Tensor:
    """Give the scores of each image mean 0 and deviation 1; scores that are all equal become 0, with the
    steep slope of the authors' epsilon.
    """
    return (scores - scores.mean(1, keepdim=True)) / (scores.std(1, keepdim=True) + _EPSILON)


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"logit-std": LogitStd}
