"""The kind `score`: a zero-cost score, which sees a network before it is trained."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Score(ABC):
    """A method of the kind `score`: a zero-cost score, which sees a network before it is trained.

    The search driver calls `score` for each new design of a search that uses it, as an objective, a filter,
    for its warm start or for its searcher.
    """

    @abstractmethod
    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Return the score; more promises more accuracy. May change the network, which is thrown away.

        Args:
            network: The network with fresh weights, in training mode, on the device.
            images: A batch of training images, normalised: float [batch, channel, height, width].
            labels: Their labels: int64 [batch], or what else the task's form has for targets.
        """
