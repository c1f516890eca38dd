"""Contrastive distillation: the student's embedding of an image shall tell the teacher's of the same image
from those of others.

    loss = labels * CE(s, y) + weight * (NCE(v^s; bank of v^t) + NCE(v^t; bank of v^s))
    NCE(v; bank) = - log h(v, bank_i) - sum over N negatives j of log (1 - h(v, bank_j))
    h(v, u) = e / (e + N / M),  e = exp(v . u / tau) / Z                                     (section 3.2)

v are embeddings, mapped to `features` dimensions and length 1; the banks keep the last v of each of the M
training images, moved towards the new one at every visit; negatives are images of other classes. Z makes e a
distribution and is estimated from the first batch.

Reference:
    Tian, Krishnan & Isola, Contrastive representation distillation, 2019. arXiv:1910.10699
    Wu, Xiong, Yu & Lin, Unsupervised feature learning via non-parametric instance discrimination, 2018, for
    banks and Z. arXiv:1805.01978
Differs:
    One product of the batch with the whole bank replaces the gathering of N vectors an image; where there
    are fewer than N images of other classes all are used, else N of them are drawn without repetition.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor, nn

from learnforge import Batch, Distiller, Layers, Outputs, Task, hookimpl
from learnforge_kit import label_loss, pool

_TAP = "embedding"


@frozen
class CRD(Distiller):
    """Contrastive representation distillation of Tian et al.

    Args:
        weight: Weight of the contrast, from 0.
        negatives: N, images of other classes that one is told from, from 1.
        temperature: tau, above 0.
        features: Dimensions of the space in which both networks meet, from 1.
        momentum: Share of the old entry that a bank keeps at a visit, in [0, 1].
        labels: Weight of the cross-entropy with the labels, from 0.
    """

    weight: float = field(default=0.8, validator=ge(0.0))
    negatives: int = field(default=16384, validator=ge(1))
    temperature: float = field(default=0.07, validator=gt(0.0))
    features: int = field(default=128, validator=ge(1))
    momentum: float = field(default=0.5, validator=[ge(0.0), le(1.0)])
    labels: float = field(default=1.0, validator=ge(0.0))

    def needs_single_labels(self) -> bool:
        return True

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        return [_TAP], [_TAP]

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> _Contrast:
        widths = [pool(outputs.taps[_TAP]).shape[1] for outputs in (student, teacher)]
        return _Contrast(self, widths, task.train.labels)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        raise NotImplementedError("the criterion has the memory banks")


class _Contrast(nn.Module):
    """The loss with its maps and banks."""

    student_bank: Tensor
    teacher_bank: Tensor
    own_log_z: Tensor
    known_log_z: Tensor
    classes: Tensor

    def __init__(self, method: CRD, widths: Sequence[int], labels: Tensor):
        super().__init__()
        self.method = method
        self.student_map, self.teacher_map = (nn.Linear(width, method.features) for width in widths)
        for name in ("student_bank", "teacher_bank"):
            bank = F.normalize(torch.randn(len(labels), method.features), dim=1)
            self.register_buffer(name, bank)
        for name in ("own_log_z", "known_log_z"):
            self.register_buffer(name, torch.full((), math.nan))  # until the first batch
        self._is_estimated = False
        self.register_buffer("classes", labels.clone())

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        features = [pool(outputs.taps[_TAP]).float() for outputs in (student, teacher)]
        with torch.autocast(features[0].device.type, enabled=False):  # exp(… / tau) needs single precision
            student_part = F.normalize(self.student_map(features[0]), dim=1)
            teacher_part = F.normalize(self.teacher_map(features[1]), dim=1)
            is_negative = self._draw(batch)
            pulled = (
                self._compare(student_part, self.teacher_bank),
                self._compare(teacher_part, self.student_bank),
            )
            self._estimate(pulled, batch, is_negative)
            contrast = self._nce(pulled[0] - self.known_log_z, batch, is_negative)
            contrast = contrast + self._nce(pulled[1] - self.own_log_z, batch, is_negative)
        if self.training:
            self.student_bank = self._remember(self.student_bank, student_part, batch)
            self.teacher_bank = self._remember(self.teacher_bank, teacher_part, batch)
        return self.method.labels * label_loss(student, batch) + self.method.weight * contrast

    def _draw(self, batch: Batch) -> Tensor:
        """Choose the negatives of each image: bool [batch, image]."""
        is_other = self.classes[None] != batch.labels[:, None]
        if is_other.shape[1] <= self.method.negatives:
            return is_other
        keys = torch.rand(is_other.shape, device=is_other.device).masked_fill(~is_other, -1.0)
        drawn = keys.topk(self.method.negatives, dim=1).indices
        return is_other & torch.zeros_like(is_other).scatter(1, drawn, True)

    def _compare(self, anchors: Tensor, bank: Tensor) -> Tensor:
        """Return v . u / tau for the whole bank: [batch, image]."""
        return anchors @ bank.T / self.method.temperature

    def _estimate(self, pulled: Sequence[Tensor], batch: Batch, is_negative: Tensor) -> None:
        """Set Z to M times the mean of exp(v . u / tau) over all pairs of the first batch."""
        if not self._is_estimated and bool(self.own_log_z.isnan()):
            compared = is_negative.scatter(1, batch.indices[:, None], True)
            for scores, log_z in zip(pulled, (self.known_log_z, self.own_log_z), strict=True):
                found = scores.detach()[compared]
                log_z.copy_(found.logsumexp(0) - math.log(len(found)) + math.log(len(self.classes)))
        self._is_estimated = True

    def _nce(self, logs: Tensor, batch: Batch, is_negative: Tensor) -> Tensor:
        """Return the loss, averaged over the batch, for log e: [batch, image]."""
        count = is_negative.sum(1, keepdim=True).clamp(min=1)
        # log h = log sigmoid(log e - log (N / M)), and log (1 - h) is that of the negative
        logits = logs - (count / len(self.classes)).log()
        positive = F.logsigmoid(logits.gather(1, batch.indices[:, None]))
        negative = F.logsigmoid(-logits).masked_fill(~is_negative, 0.0).sum(1, keepdim=True)
        return -(positive + negative).mean()

    @torch.no_grad()
    def _remember(self, bank: Tensor, vectors: Tensor, batch: Batch) -> Tensor:
        """Return the bank with the batch's entries moved; the old one is still needed for the gradient."""
        momentum = self.method.momentum
        moved = momentum * bank[batch.indices] + (1 - momentum) * vectors
        return bank.index_copy(0, batch.indices, F.normalize(moved, dim=1))


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"crd": CRD}
