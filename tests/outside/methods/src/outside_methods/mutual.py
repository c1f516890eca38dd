"""Deep mutual learning: two networks learn from labels and from each other.

    loss = CE(s, y) + KL(t || s) + CE(t, y) + KL(s || t), each divergence with its first part held fixed

Reference:
    Zhang, Xiang, Hospedales & Lu, Deep mutual learning, 2018. arXiv:1706.00384 (equations 5 and 6)
"""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from learnforge import Batch, Distiller, Outputs, hookimpl
from learnforge_kit import label_loss


@frozen
class Mutual(Distiller):
    """Student and teacher teach each other. It has no options."""

    trains_teacher: ClassVar[bool] = True

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        s, t = student.logits.log_softmax(1), teacher.logits.log_softmax(1)
        labels = label_loss(student, batch) + label_loss(teacher, batch)
        to_student = F.kl_div(s, t.detach(), log_target=True, reduction="batchmean")
        to_teacher = F.kl_div(t, s.detach(), log_target=True, reduction="batchmean")
        return labels + to_student + to_teacher


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"mutual": Mutual}
