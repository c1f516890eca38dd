"""A policy for real actions: a perceptron gives the means of Gaussians, whose deviations do not depend on
what is observed.

The outputs are the means and then the logarithms of the deviations, [sample, 2 · action], of which the latter
are parameters of their own.

Reference:
    Schulman et al., Trust region policy optimization, 2015, appendix D. arXiv:1502.05477
    Andrychowicz et al., What matters in on-policy reinforcement learning?, 2020. arXiv:2006.05990
    (section 3.2: a small last layer)
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import deep_iterable, ge, gt
from torch import Tensor, nn

from learnforge import Model, TaskInfo, hookimpl

SMALLEST = math.log(1e-6)
"""Deviations do not fall below this logarithm."""
_LAST = 0.01
"""Factor of the last layer's initial weights, so that a fresh policy has nearly the same means everywhere."""


@frozen
class GaussianPolicy(Model):
    """Gaussian policy.

    Args:
        hidden: Units of each hidden layer, from 1, with tanh behind it.
        deviation: Deviations at the start, above 0.
    """

    hidden: tuple[int, ...] = field(default=(64, 64), validator=deep_iterable(ge(1)))
    deviation: float = field(default=1.0, validator=gt(0.0))

    forms: ClassVar[frozenset[str]] = frozenset({"environment"})

    def build(self, task: TaskInfo) -> nn.Module:
        channels, height, width = task.input_shape
        sizes = [channels * height * width, *self.hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inside, outside in itertools.pairwise(sizes):
            layers += [nn.Linear(inside, outside), nn.Tanh()]
        last = nn.Linear(sizes[-1], len(task.classes))
        for layer in [*layers, last]:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, gain=_LAST if layer is last else 1.0)
                nn.init.zeros_(layer.bias)
        return _Policy(nn.Sequential(*layers, last), len(task.classes), math.log(self.deviation))


class _Policy(nn.Module):
    """Means from a network, and deviations.

    Args:
        means: From observations to [sample, action].
        actions: Numbers of an action.
        log_std: Logarithm of all deviations at the start.
    """

    def __init__(self, means: nn.Module, actions: int, log_std: float):
        super().__init__()
        self.log_std = nn.Parameter(torch.full((actions,), log_std))
        self.means = means

    def forward(self, observations: Tensor) -> Tensor:
        means: Tensor = self.means(observations)
        log_std = self.log_std.clamp_min(SMALLEST).expand_as(means)
        return torch.cat([means, log_std], -1)


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"gaussian-policy": GaussianPolicy}
