"""SAM: each step goes by the gradient where the loss is highest near the weights.

    e = rho g(w) / |g(w)|;  w <- step of a base optimizer at w by g(w + e)

Reference:
    Foret et al., Sharpness-aware minimization for efficiently improving generalization, 2021.
    arXiv:2010.01412 (algorithm 1)
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, lt

from learnforge import Optimizer, hookimpl


@frozen
class SAM(Optimizer):
    """Sharpness-aware SGD, which evaluates each batch twice.

    Args:
        rho: How far from the weights the gradient is taken, above 0.
        momentum: Momentum of the steps, in [0, 1).
    """

    rho: float = field(default=0.05, validator=gt(0.0))
    momentum: float = field(default=0.9, validator=[ge(0.0), lt(1.0)])

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return _Steps(groups, self.rho, self.momentum)


class _Steps(torch.optim.SGD):
    def __init__(self, groups: list[dict[str, Any]], rho: float, momentum: float):
        super().__init__(groups, momentum=momentum)
        self.rho = rho

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        kept = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            scale = self.rho / (torch.nn.utils.get_total_norm(p.grad for p in parameters) + 1e-12)
            for p in parameters:
                p.add_(p.grad * scale)
        closure()
        with torch.no_grad():
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)
        super().step()
        return loss


@hookimpl
def learnforge_optimizers() -> dict[str, type[Optimizer]]:
    return {"sam": SAM}
