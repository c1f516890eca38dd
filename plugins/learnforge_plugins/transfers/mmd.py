"""Deep adaptation network: in both domains the same distribution of features, by a mixture of kernels.

    loss = CE(s, y) + weight * sum over layers of MMD^2(source, target)                     (equation 4)
    MMD^2 = E k(s, s') + E k(t, t') - 2 E k(s, t)                                           (equation 1)
    k(x, y) = mean over bandwidths b of exp(-|x - y|^2 / b)                                 (equation 2)

Bandwidths are the mean squared distance in the batch times 2^-m … 2^m.

Reference:
    Long, Cao, Wang & Jordan, Learning transferable features with deep adaptation networks, 2015.
    arXiv:1502.02791
Differs:
    Expectations run over all pairs of the batch, without an image and itself; the paper's estimate takes each
    image once. Kernels have equal weights instead of learned ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from learnforge import Batch, Layers, Outputs, Transfer, hookimpl
from learnforge_kit import DomainAdaptation, pool

_TAP = "embedding"


@frozen
class MMD(DomainAdaptation):
    """Multi-kernel maximum mean discrepancy of Long et al., on the embedding and on the class scores.

    Args:
        weight: Weight of the discrepancy, from 0.
        spread: m, so that there are 2 m + 1 bandwidths, from 0.
    """

    weight: float = field(default=1.0, validator=ge(0.0))
    spread: int = field(default=2, validator=ge(0))

    def taps(self, layers: Layers) -> Sequence[str]:
        return [_TAP]

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        assert other is not None
        pairs = [(pool(outputs.taps[_TAP]), pool(other.taps[_TAP])), (outputs.logits, other.logits)]
        distance = torch.stack([self._discrepancy(own, foreign) for own, foreign in pairs])
        return super().loss(outputs, batch, other, other_batch) + self.weight * distance.sum()

    def _discrepancy(self, own: Tensor, foreign: Tensor) -> Tensor:
        """Return the unbiased estimate of MMD^2 of features [batch, d]; it can be below 0."""
        both = torch.cat([own, foreign])
        squares = both.square().sum(1)
        distances = (squares[:, None] + squares - 2 * both @ both.T).clamp(min=0)
        count, n = len(both), len(own)
        scale = distances.detach().sum() / (count * (count - 1)) + 1e-12
        powers = range(-self.spread, self.spread + 1)
        kernel = torch.stack([(-distances / (scale * 2.0**m)).exp() for m in powers]).mean(0)
        return _pairs(kernel[:n, :n]) + _pairs(kernel[n:, n:]) - 2 * kernel[:n, n:].mean()


def _pairs(kernel: Tensor) -> Tensor:
    """Return the mean over pairs of different images."""
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / max(1, count * (count - 1))


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"mmd": MMD}
