"""Correlation alignment: in both domains the same covariance of scores.

    loss = CE(s, y) + weight * |C_S - C_T|_F^2 / (4 d^2)                                  (equations 1 and 4)

C_S and C_T are the covariances of d scores (or features) over the images of a batch (equations 2 and 3).

Reference:
    Sun & Saenko, Deep CORAL: correlation alignment for deep domain adaptation, 2016. arXiv:1607.01719
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, in_
from torch import Tensor

from learnforge import Batch, Layers, Outputs, Transfer, hookimpl
from learnforge_kit import DomainAdaptation, pool

_TAP = "embedding"


@frozen
class CORAL(DomainAdaptation):
    """Deep CORAL of Sun & Saenko.

    Args:
        weight: Weight of the distance of covariances, from 0.
        layer: What is aligned: the class `scores`, as in the paper, or the `embedding` before the head.
    """

    weight: float = field(default=1.0, validator=ge(0.0))
    layer: Literal["scores", "embedding"] = field(default="scores", validator=in_(("scores", "embedding")))

    def taps(self, layers: Layers) -> Sequence[str]:
        return [_TAP] if self.layer == "embedding" else []

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        assert other is not None
        own, foreign = (_covariance(self._features(o)) for o in (outputs, other))
        distance = (own - foreign).square().sum() / (4 * len(own) ** 2)
        return super().loss(outputs, batch, other, other_batch) + self.weight * distance

    def _features(self, outputs: Outputs) -> Tensor:
        return pool(outputs.taps[_TAP]) if self.layer == "embedding" else outputs.logits


def _covariance(features: Tensor) -> Tensor:
    """Return the covariance of features [batch, d]: [d, d]."""
    centred = features - features.mean(0)
    return centred.T @ centred / max(1, len(features) - 1)


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"coral": CORAL}
