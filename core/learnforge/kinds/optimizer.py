"""The kind `optimizer`: moves weights by their gradients."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch


class Optimizer(ABC):
    """A method of the kind `optimizer`: a frozen attrs class whose fields are its options, but for learning
    rate and weight decay, which a stage gives.

    A training calls `make` once, where it runs. Before each step it sets the `lr` of each group as the
    schedule says, then it calls `step(closure)`. The closure computes loss and gradients of the step's batch
    at the weights as they are, and returns the loss; it may be called several times, and must be at least
    once. What `state_dict` gives is checkpointed, so all that a later step depends on must be in there.
    """

    @abstractmethod
    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Make the optimizer of one training.

        Args:
            groups: torch parameter groups, at least one, each with `params`, `lr` and `weight_decay`.

        Raises:
            ValueError: It cannot train these groups; the text says what to change.
        """
