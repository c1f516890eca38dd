"""Conditional adversarial adaptation: the discriminator sees features together with predictions.

    loss = CE(s, y) + weight * mean over both domains of  sum of w BCE(D(T(f, g)), domain) / sum of w
                                                                                             (equation 6)
    T(f, g) = f (x) g, all products of a feature and a probability                            (equation 4)
            = (R_f f) * (R_g g) / sqrt(width), with fixed random matrices, where f (x) g is wider (equation 5)
    w = 1 + exp(-H(g))                 images that the network is sure of count more          (section 3.3)

So the domains are aligned class by class. Gradients are reversed as in domain-adversarial training.

Reference:
    Long, Cao, Wang & Jordan, Conditional adversarial domain adaptation, 2018. arXiv:1705.10667
Differs:
    As in the authors' code, weights are normalised within each domain, and no gradient goes through g in
    T(f, g); through H(g) it goes, reversed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from learnforge import Batch, Layers, Outputs, TaskInfo, Transfer, hookimpl
from learnforge_kit import DomainAdaptation, adversarial_strength, pool, reverse_gradient

_TAP = "embedding"


@frozen
class CDAN(DomainAdaptation):
    """Conditional adversarial domain adaptation of Long et al., with entropy conditioning (CDAN+E).

    Args:
        weight: Weight of the discriminator's loss, from 0.
        hidden: Units in each of the discriminator's two hidden layers, from 1.
        entropy: Let images that the network is sure of count more; without it the method is plain CDAN.
        width: Most products of features and probabilities; where there are more, random projections take
            their place. From 1.
    """

    weight: float = field(default=1.0, validator=ge(0.0))
    hidden: int = field(default=500, validator=ge(1))
    entropy: bool = True
    width: int = field(default=4096, validator=ge(1))

    def taps(self, layers: Layers) -> Sequence[str]:
        return [_TAP]

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> _Adversary:
        return _Adversary(self, pool(outputs.taps[_TAP]).shape[1], outputs.logits.shape[1])


class _Adversary(nn.Module):
    """The loss with its discriminator and random matrices."""

    def __init__(self, method: CDAN, features: int, classes: int):
        super().__init__()
        self.method = method
        self.is_projected = features * classes > method.width
        width = method.width if self.is_projected else features * classes
        if self.is_projected:
            self.register_buffer("project_features", torch.randn(width, features))
            self.register_buffer("project_classes", torch.randn(width, classes))
        self.discriminator = nn.Sequential(
            nn.Linear(width, method.hidden),
            nn.ReLU(),
            nn.Linear(method.hidden, method.hidden),
            nn.ReLU(),
            nn.Linear(method.hidden, 1),
        )

    def forward(self, outputs: Outputs, batch: Batch, other: Outputs, other_batch: Batch) -> Tensor:
        strength = adversarial_strength(batch.progress)
        losses = [
            self._deceive(seen, is_source, strength) for seen, is_source in ((outputs, True), (other, False))
        ]
        confusion = (losses[0] + losses[1]) / 2
        return self.method.loss(outputs, batch, other, other_batch) + self.method.weight * confusion

    def _deceive(self, seen: Outputs, is_source: bool, strength: float) -> Tensor:
        """Return the discriminator's loss on the images of one domain."""
        logs = seen.logits.log_softmax(1)
        probabilities = logs.exp()
        features = reverse_gradient(pool(seen.taps[_TAP]), strength)
        guesses = self.discriminator(self._combine(features, probabilities.detach())).squeeze(1)
        domains = torch.full_like(guesses, float(is_source))
        losses = F.binary_cross_entropy_with_logits(guesses, domains, reduction="none")
        if not self.method.entropy:
            return losses.mean()
        certainty = reverse_gradient((probabilities * logs).sum(1), strength)  # -H
        weights = 1 + certainty.exp()
        return (weights * losses).sum() / weights.sum().detach()

    def _combine(self, features: Tensor, probabilities: Tensor) -> Tensor:
        """Return T(f, g): [batch, width]."""
        if not self.is_projected:
            return (features[:, :, None] * probabilities[:, None, :]).flatten(1)
        own = features @ self.get_buffer("project_features").T
        return own * (probabilities @ self.get_buffer("project_classes").T) / math.sqrt(self.method.width)


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"cdan": CDAN}
