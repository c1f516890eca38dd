"""Episodes: support and query sets of a batch of tasks, and where they come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, le
from torch import Tensor

Act = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""Runs the networks of several tasks without gradients: from {parameter name: [task, …]} and [task, sample,
…] to [task, sample, output]."""


@frozen(eq=False)
class Labelled:
    """Labelled images of several tasks.

    Args:
        images: float [task, image, channel, height, width].
        labels: int64 [task, image], in [0, ways).
    """

    images: Tensor
    labels: Tensor

    @property
    def ways(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    def one_hot(self, ways: int) -> Tensor:
        """Return 1 for an image's class and 0 for the others: [task, image, way], in the images' type."""
        classes = torch.arange(ways, device=self.labels.device)
        return (self.labels[..., None] == classes).to(self.images.dtype)


class Episodes(ABC):
    """A batch of few-shot tasks; axis 0 of everything is the task."""

    are_rollouts: ClassVar[bool] = False
    """Whether these are environments, whose data depend on what a policy does."""

    def begin(self, act: Act, parameters: Mapping[str, Tensor]) -> Episodes:
        """Return the episodes of a network that is to be adapted: for images these.

        Args:
            act: Runs the network, for sources whose data depend on what it does.
            parameters: The network's before adaptation, {name: […]}, shared by all tasks.
        """
        return self

    @property
    @abstractmethod
    def support(self) -> Labelled:
        """What a task is adapted to."""

    @abstractmethod
    def query(self, adapted: Any) -> Labelled:
        """What the adapted parameters are judged on.

        Args:
            adapted: {parameter name: [task, …]}, for sources whose data depend on them.
        """


_MOST = 10_000
"""Classes, and images of one, in an episode at most: names of all are written out."""


@frozen
class EpisodeShape:
    """The size of an episode.

    Args:
        ways: Classes in an episode, from 2; 1 for tasks whose targets are numbers.
        shots: Labelled examples of each class, from 1.
        queries: Images of each class to judge by, from 1.
    """

    ways: int = field(default=5, validator=[ge(1), le(_MOST)])
    shots: int = field(default=1, validator=[ge(1), le(_MOST)])
    queries: int = field(default=15, validator=[ge(1), le(_MOST)])


class EpisodeSource(ABC):
    """Draws batches of episodes. A task whose episodes are no images brings its own."""

    @abstractmethod
    def draw(self, seed: int, indices: Tensor) -> Episodes:
        """Draw the episodes with the given numbers, a pure function of both arguments.

        Args:
            seed: Seed of the sequence of episodes.
            indices: int64 [task], numbers in that sequence.
        """
