"""torch's own optimizers, with the options that are not of the learning rate and weight decay.

Reference:
    https://docs.pytorch.org/docs/stable/optim.html, whose entries name the papers
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, in_, lt

from learnforge import Optimizer, hookimpl
from learnforge_kit import are_fusible


@frozen
class SGD(Optimizer):
    """Stochastic gradient descent.

    Args:
        momentum: Share of the last step's direction that is kept, in [0, 1).
        nesterov: Nesterov's form of the momentum, where there is any.
    """

    momentum: float = field(default=0.9, validator=[ge(0.0), lt(1.0)])
    nesterov: bool = True

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        is_nesterov = self.nesterov and self.momentum > 0
        made = torch.optim.SGD(
            groups, momentum=self.momentum, nesterov=is_nesterov, fused=are_fusible(groups)
        )
        if self.momentum:
            # torch's fused step fails where some parameters get their first gradient later than others
            for parameter in (p for group in groups for p in group["params"]):
                made.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return made


@frozen
class _Moments(Optimizer):
    """What Adam and its kin share.

    Args:
        beta1: Decay of the mean of gradients, in [0, 1).
        beta2: Decay of the mean of their squares, in [0, 1).
        eps: Added to the root of the mean of squares, above 0.
    """

    beta1: float = field(default=0.9, validator=[ge(0.0), lt(1.0)])
    beta2: float = field(default=0.999, validator=[ge(0.0), lt(1.0)])
    eps: float = field(default=1e-8, validator=gt(0.0))

    @property
    def shared(self) -> dict[str, Any]:
        """The options as torch takes them."""
        return {"betas": (self.beta1, self.beta2), "eps": self.eps}


@frozen
class Adam(_Moments):
    """Adam, whose weight decay is part of the gradient.

    Args:
        amsgrad: Divide by the largest mean of squares so far.
    """

    amsgrad: bool = False

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, fused=are_fusible(groups), amsgrad=self.amsgrad, **self.shared)


@frozen
class AdamW(_Moments):
    """Adam with decoupled weight decay.

    Args:
        amsgrad: Divide by the largest mean of squares so far.
    """

    amsgrad: bool = False

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups, fused=are_fusible(groups), amsgrad=self.amsgrad, **self.shared)


@frozen
class NAdam(_Moments):
    """Adam with Nesterov's momentum; its weight decay is decoupled."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.NAdam(groups, decoupled_weight_decay=True, **self.shared)


@frozen
class RAdam(_Moments):
    """Rectified Adam, which needs no warm-up; its weight decay is decoupled."""

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.RAdam(groups, decoupled_weight_decay=True, **self.shared)


@frozen
class RMSprop(Optimizer):
    """Gradients divided by the root of the mean of their squares.

    Args:
        alpha: Decay of the mean of squares, in [0, 1).
        momentum: Share of the last step's direction that is kept, in [0, 1).
        eps: Added to the root, above 0.
    """

    alpha: float = field(default=0.99, validator=[ge(0.0), lt(1.0)])
    momentum: float = field(default=0.0, validator=[ge(0.0), lt(1.0)])
    eps: float = field(default=1e-8, validator=gt(0.0))

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(groups, alpha=self.alpha, momentum=self.momentum, eps=self.eps)


@frozen
class LBFGS(Optimizer):
    """Limited-memory BFGS, which evaluates a batch several times a step.

    It is for batches that hold the whole training split, all at one learning rate and without weight decay.

    Args:
        iterations: Most iterations a step, from 1.
        history: Updates that it remembers, from 1.
        line_search: `none`: steps at the learning rate; or `strong-wolfe`, which begins at the rate and goes
            as far as it must.
    """

    iterations: int = field(default=20, validator=ge(1))
    history: int = field(default=100, validator=ge(1))
    line_search: Literal["none", "strong-wolfe"] = field(
        default="none", validator=in_(("none", "strong-wolfe"))
    )

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        if any(group["weight_decay"] for group in groups):
            raise ValueError("it knows no weight decay; set `weight_decay = 0`")
        rates = sorted({group["lr"] for group in groups})
        if len(rates) > 1:
            raise ValueError(f"it trains all parameters at one learning rate, they have {rates}")
        return torch.optim.LBFGS(
            [p for group in groups for p in group["params"]],
            lr=rates[0],
            max_iter=self.iterations,
            history_size=self.history,
            line_search_fn="strong_wolfe" if self.line_search == "strong-wolfe" else None,
        )


@hookimpl
def learnforge_optimizers() -> dict[str, type[Optimizer]]:
    return {
        "sgd": SGD,
        "adam": Adam,
        "adamw": AdamW,
        "nadam": NAdam,
        "radam": RAdam,
        "rmsprop": RMSprop,
        "lbfgs": LBFGS,
    }
