"""Logit distillation: the student matches the teacher's softened class probabilities.

    loss = (1 - alpha) * CE(s, y) + alpha * T^2 * KL(softmax(t / T) || softmax(s / T))

s and t are the class scores of student and teacher. T^2 keeps the size of the soft gradient independent of T
(section 2).

Reference:
    Hinton, Vinyals & Dean, Distilling the knowledge in a neural network, 2015. arXiv:1503.02531
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor

from learnforge import Batch, Distiller, Outputs, hookimpl
from learnforge_kit import label_loss


@frozen
class KD(Distiller):
    """Knowledge distillation of Hinton et al.

    Args:
        temperature: T, above 0; the higher, the more the wrong classes' probabilities count.
        alpha: Weight of the teacher against the labels, in [0, 1].
    """

    temperature: float = field(default=4.0, validator=gt(0.0))
    alpha: float = field(default=0.9, validator=[ge(0.0), le(1.0)])

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = {"alpha": 1.0}

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        t = self.temperature
        soft = F.kl_div(
            F.log_softmax(student.logits / t, 1),
            F.log_softmax(teacher.logits / t, 1),
            log_target=True,
            reduction="batchmean",
        )
        return (1 - self.alpha) * label_loss(student, batch) + self.alpha * t * t * soft


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"kd": KD}
