"""The kind `validator`: judges an adapted network without a label of the new task."""

from __future__ import annotations

from abc import ABC, abstractmethod

from attrs import frozen
from torch import Tensor


@frozen(eq=False)
class Evidence:
    """What a validator may look at: class scores for validation images of both tasks, in eval mode.

    Args:
        source: Class scores of the labelled task, float [image, class].
        source_labels: Its labels, int64 [image].
        target: Class scores of the new task, whose labels are withheld, float [image, class].
    """

    source: Tensor
    source_labels: Tensor
    target: Tensor


class Validator(ABC):
    """A method of the kind `validator`: a frozen attrs class that scores a network by unlabelled images.

    The transfer stage calls `score` after each epoch of a domain adaptation; `weights = "best"` and
    `patience` go by it.
    """

    @abstractmethod
    def score(self, evidence: Evidence) -> float:
        """Return how good the network seems; finite, and higher is better.

        Args:
            evidence: Class scores for images of both tasks.
        """
