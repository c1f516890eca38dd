"""Minimum class confusion: on unlabelled images, classes are not to be taken for one another.

    p = softmax(s / T);  w = 1 + exp(-H(p)), scaled to a mean of 1;  C = p^T diag(w) p, rows scaled to 1
    loss = CE(s, y) + weight * (sum of C off its diagonal) / classes

Reference:
    Jin, Wang, Long & Wang, Minimum class confusion for versatile domain adaptation, 2020. arXiv:1912.03699
    (equations 2 to 6)
"""

from __future__ import annotations

from attrs import field, frozen
from attrs.validators import ge, gt
from torch import Tensor

from learnforge import Batch, Outputs, Transfer, hookimpl
from learnforge_kit import DomainAdaptation


@frozen
class MCC(DomainAdaptation):
    """Minimum class confusion.

    Args:
        weight: Weight of the confusion, from 0.
        temperature: Temperature of the scores, above 0.
    """

    weight: float = field(default=1.0, validator=ge(0.0))
    temperature: float = field(default=2.5, validator=gt(0.0))

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        assert other is not None
        logs = (other.logits / self.temperature).log_softmax(1)
        shares = logs.exp()
        sure = 1 + (shares * logs).sum(1).exp()
        weights = (sure / sure.mean()).detach()
        confusion = shares.T @ (weights[:, None] * shares)
        confusion = confusion / confusion.sum(1, keepdim=True)
        apart = (confusion.sum() - confusion.trace()) / len(confusion)
        return super().loss(outputs, batch, other, other_batch) + self.weight * apart


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"mcc": MCC}
