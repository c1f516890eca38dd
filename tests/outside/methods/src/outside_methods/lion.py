"""Lion: a step has one length for all weights, and a direction from momentum.

    u = sign(beta1 m + (1 - beta1) g);  w <- w - rate (u + decay w);  m <- beta2 m + (1 - beta2) g

Reference:
    Chen et al., Symbolic discovery of optimization algorithms, 2023. arXiv:2302.06675 (program 1)
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import ge, lt

from learnforge import Optimizer, hookimpl


@frozen
class Lion(Optimizer):
    """Lion. Rates are a tenth of Adam's, decays ten times as large.

    Args:
        beta1: Share of the momentum in a step's direction, in [0, 1).
        beta2: Share of the momentum that is kept, in [0, 1).
    """

    beta1: float = field(default=0.9, validator=[ge(0.0), lt(1.0)])
    beta2: float = field(default=0.99, validator=[ge(0.0), lt(1.0)])

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the optimizer of one training."""
        return _Steps(groups, {"beta1": self.beta1, "beta2": self.beta2})


class _Steps(torch.optim.Optimizer):
    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        self._move(p, group)
        return loss

    def _move(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
        direction = torch.lerp(p.grad, momentum, group["beta1"]).sign()
        p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=group["lr"])
        momentum.lerp_(p.grad, 1 - group["beta2"])


@hookimpl
def learnforge_optimizers() -> dict[str, type[Optimizer]]:
    """Offer the optimizer under the name of its entry point."""
    return {"lion": Lion}
