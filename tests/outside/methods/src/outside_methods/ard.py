"""Adversarially robust distillation: the student says of attacked images what the teacher says of clean ones.

    loss = (1 - alpha) CE(s(x), y) + alpha T^2 KL(t(x) / T || s(x + d) / T)
    d: by signed steps up CE(s(x + d), y)

Reference:
    Goldblum, Fowl, Feizi & Goldstein, Adversarially robust distillation, 2020. arXiv:1905.09747 (equation 3)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor

from learnforge import Batch, Distiller, Outputs, hookimpl
from learnforge_kit import label_loss


@frozen
class ARD(Distiller):
    """Distils on images that the student is attacked with.

    Args:
        alpha: Share of the teacher's part, in [0, 1].
        temperature: Temperature of both, above 0.
        radius: Largest change of a normalised pixel, above 0.
        steps: Steps of the attack, from 1.
    """

    alpha: float = field(default=0.9, validator=[ge(0.0), le(1.0)])
    temperature: float = field(default=4.0, validator=gt(0.0))
    radius: float = field(default=0.1, validator=gt(0.0))
    steps: int = field(default=3, validator=ge(1))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        t = self.temperature
        attacked = F.log_softmax(student.run(self._attack(student, batch)).logits / t, 1)
        known = F.log_softmax(teacher.logits / t, 1)
        taught = F.kl_div(attacked, known, log_target=True, reduction="batchmean") * t * t
        return (1 - self.alpha) * label_loss(student, batch) + self.alpha * taught

    def _attack(self, student: Outputs, batch: Batch) -> Tensor:
        change = torch.zeros_like(batch.images)
        for _ in range(self.steps):
            change.requires_grad_()
            loss = F.cross_entropy(student.run(batch.images + change).logits, batch.targets)
            (slope,) = torch.autograd.grad(loss, change)
            step = change.detach() + 2 * self.radius / self.steps * slope.sign()
            change = step.clamp(-self.radius, self.radius)
        return batch.images + change


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"ard": ARD}
