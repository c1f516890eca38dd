"""Steps by which a method trains modules of its own."""

from __future__ import annotations

from collections.abc import Callable

from attrs import field, frozen
from attrs.validators import ge, gt, optional
from torch import Tensor, nn

from learnforge.kinds.optimizer import Optimizer


@frozen(eq=False)
class Turn:
    """Trains a module of a method's own before each step of the network, with an optimizer of its own.

    Args:
        module: What is trained: a part of the method's criterion, which is checkpointed with it. The step of
            the network leaves it alone.
        loss: From the batch, and the companion batch where there is one, to a scalar. Gradients that it
            leaves elsewhere are dropped.
        optimizer: The optimizer; as `train` says by default. Schedule, weight decay and `clip_norm` are those
            of `train`.
        learning_rate: Its peak learning rate, above 0, in the course of `train`; that of `train` by default.
        steps: Steps on each batch, from 1.
    """

    module: nn.Module
    loss: Callable[..., Tensor]
    optimizer: Optimizer | None = None
    learning_rate: float | None = field(default=None, validator=optional(gt(0.0)))
    steps: int = field(default=1, validator=ge(1))
