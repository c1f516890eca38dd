"""What can be said of a network before it is trained: costs, and scores that foretell its accuracy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from learnforge.task import TaskInfo


class CostMeter(ABC):
    """A method of the kind `cost`: a frozen attrs class that says what a network costs somewhere.

    The search driver calls `measure` once for each new design, before it is trained. Lists of `costs` in a
    recipe name them; objectives and limits then use a cost by its `label`.
    """

    needs_weights: ClassVar[bool] = False
    """Whether the network must be built with weights on the device, to be run; else it comes on the meta device,
    where nothing is computed."""

    @property
    def label(self) -> str:
        """Name in objectives and limits; "" for the name that the plugin is registered by."""
        return ""

    @abstractmethod
    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        """Return the cost of one image in inference; less is better.

        Args:
            network: The network, in eval mode.
            task: Gives the input shape.
        """


class Score(ABC):
    """A method of the kind `score`: a zero-cost score, which sees a network before it is trained.

    The search driver calls `score` for each new design of a search that uses it, as an objective, a filter, for
    its warm start or for its searcher.
    """

    @abstractmethod
    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Return the score; more promises more accuracy. May change the network, which is thrown away.

        Args:
            network: The network with fresh weights, in training mode, on the device.
            images: A batch of training images, normalised: float [batch, channel, height, width].
            labels: Their labels: int64 [batch].
        """
