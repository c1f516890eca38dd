"""Decoupled distillation: what the teacher says of the true class and of the others, weighed apart.

    loss = labels * CE(s, y) + ramp * (alpha * TCKD + beta * NCKD)
    TCKD = T^2 * KL(b^t || b^s)            b  = (p_y, 1 - p_y), true class against all others     (equation 3)
    NCKD = T^2 * KL(q^t || q^s)            q  = softmax over the classes other than y             (equation 4)

p is the softmax of the class scores over T. Plain distillation is TCKD + (1 - p^t_y) NCKD (equation 6): a
sure teacher silences its own dark knowledge, which `beta` sets free (equation 7).

Reference:
    Zhao, Cui, Song, Qiu & Liang, Decoupled knowledge distillation, 2022. arXiv:2203.08679
Differs:
    `warmup`, from the authors' code, is a share of the training; their 20 of 240 epochs are 0.083.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor

from learnforge import Batch, Distiller, Outputs, hookimpl
from learnforge_kit import label_loss


@frozen
class DKD(Distiller):
    """Decoupled knowledge distillation of Zhao et al.

    Args:
        temperature: T, above 0.
        alpha: Weight of the true class against all others, from 0.
        beta: Weight of the others among themselves, from 0.
        labels: Weight of the cross-entropy with the labels, from 0.
        warmup: Share of the training over which the teacher's weight rises from nothing, in [0, 1].
    """

    temperature: float = field(default=4.0, validator=gt(0.0))
    alpha: float = field(default=1.0, validator=ge(0.0))
    beta: float = field(default=8.0, validator=ge(0.0))
    labels: float = field(default=1.0, validator=ge(0.0))
    warmup: float = field(default=0.083, validator=[ge(0.0), le(1.0)])

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = {"labels": 0.0, "warmup": 0.0}

    def needs_single_labels(self) -> bool:
        return True

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        t = self.temperature
        student_parts, teacher_parts = (
            _split(o.logits.float() / t, batch.labels) for o in (student, teacher)
        )
        tckd, nckd = (_divergence(*pair) for pair in zip(teacher_parts, student_parts, strict=True))
        soft = t * t * (self.alpha * tckd + self.beta * nckd)
        ramp = min(1.0, batch.progress / self.warmup) if self.warmup else 1.0
        return self.labels * label_loss(student, batch) + ramp * soft


def _split(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return log b, [batch, 2], and log q, [batch, class - 1]."""
    logs, true = scores.log_softmax(1), labels[:, None]
    classes = torch.arange(scores.shape[1] - 1, device=scores.device)
    others = logs.gather(1, classes + (classes >= true))  # all columns but the true class's
    # log (1 - p_y) as a sum over the others, since 1 - p_y rounds to 0 for a sure network
    binary = torch.cat([logs.gather(1, true), others.logsumexp(1, keepdim=True)], 1)
    return binary, others.log_softmax(1)


def _divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return KL(teacher || student) of log-probabilities, averaged over the batch."""
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"dkd": DKD}
