"""Domain-adversarial training: features from which nobody can tell the domains apart.

    loss = CE(s, y) + weight * (BCE(D(R(f_S)), 1) + BCE(D(R(f_T)), 0))                       (equation 9)
    R(f) = f,  dR/df = -lambda_p I                            gradient reversal             (equations 16, 17)
    lambda_p = 2 / (1 + exp(-10 p)) - 1                       p is the share of training that is done

The discriminator D learns to tell source from target features; through R the network learns to defeat it.

Reference:
    Ganin, Ustinova, Ajakan, Germain, Larochelle, Laviolette, Marchand & Lempitsky, Domain-adversarial
    training of neural networks, 2016. arXiv:1505.07818
"""

from __future__ import annotations

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
class DANN(DomainAdaptation):
    """Domain-adversarial training of Ganin et al.

    Args:
        weight: Weight of the discriminator's loss, from 0.
        hidden: Units in the discriminator's hidden layer, from 1.
    """

    weight: float = field(default=1.0, validator=ge(0.0))
    hidden: int = field(default=100, validator=ge(1))

    def taps(self, layers: Layers) -> Sequence[str]:
        return [_TAP]

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> _Adversary:
        return _Adversary(self, pool(outputs.taps[_TAP]).shape[1])


class _Adversary(nn.Module):
    """The loss with its discriminator."""

    def __init__(self, method: DANN, features: int):
        super().__init__()
        self.method = method
        layers = nn.Linear(features, method.hidden), nn.ReLU(), nn.Linear(method.hidden, 1)
        self.discriminator = nn.Sequential(*layers)

    def forward(self, outputs: Outputs, batch: Batch, other: Outputs, other_batch: Batch) -> Tensor:
        strength = adversarial_strength(batch.progress)
        guesses = [
            self.discriminator(reverse_gradient(pool(o.taps[_TAP]), strength)) for o in (outputs, other)
        ]
        known = F.binary_cross_entropy_with_logits(guesses[0], torch.ones_like(guesses[0]))
        confusion = known + F.binary_cross_entropy_with_logits(guesses[1], torch.zeros_like(guesses[1]))
        return self.method.loss(outputs, batch, other, other_batch) + self.method.weight * confusion


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"dann": DANN}
