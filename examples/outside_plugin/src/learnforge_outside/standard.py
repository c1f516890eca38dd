"""Distillation of standardised logits: the student learns relations of class scores, and not their size.

    z(x) = (x - mean(x)) / std(x)
    loss = (1 - alpha) * CE(s, y) + alpha * T^2 * KL(softmax(z(t) / T) || softmax(z(s) / T))

Mean and standard deviation are each image's, over its class scores (equations 7 and 8).

Reference:
    Sun, Ren, Li, Wang & Cao, Logit standardization in knowledge distillation, 2024. arXiv:2403.01427
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor

from learnforge import Batch, Distiller, Outputs, hookimpl


@frozen
class Standard(Distiller):
    """Knowledge distillation of standardised logits.

    Args:
        temperature: T, above 0, on logits of unit spread.
        alpha: Weight of the teacher against the labels, in [0, 1].
    """

    temperature: float = field(default=2.0, validator=gt(0.0))
    alpha: float = field(default=0.9, validator=[ge(0.0), le(1.0)])

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = {"alpha": 1.0}

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the loss of a batch."""
        t = self.temperature
        told, known = (F.log_softmax(_standardised(outputs.logits) / t, 1) for outputs in (student, teacher))
        soft = F.kl_div(told, known, log_target=True, reduction="batchmean") * t * t
        hard = F.cross_entropy(student.logits, batch.labels, label_smoothing=batch.label_smoothing)
        return (1 - self.alpha) * hard + self.alpha * soft


def _standardised(logits: Tensor) -> Tensor:
    """Return each image's class scores with mean 0 and standard deviation 1: float [batch, class]."""
    logits = logits.float()
    return F.layer_norm(logits, logits.shape[1:])


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    """Offer the distiller."""
    return {"standard": Standard}
