"""Episodes: few-shot tasks drawn from the classes of a split, each a pure function of (seed, index).

A batch of episodes hands out its support set, then its query set. The query may depend on the adapted
parameters, which is what reinforcement learning needs; for images it does not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from learnforge.errors import TaskError
from learnforge.randomness import derive, hashed

if TYPE_CHECKING:
    from learnforge.task import MemorySplit


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


@frozen(eq=False)
class ImageEpisodes(Episodes):
    """Episodes whose query was drawn beforehand.

    Args:
        support: What each task is adapted to.
        queries: What it is judged on.
        classes: int64 [task, way]: the split's label behind each label of the episode.
    """

    support: Labelled
    queries: Labelled
    classes: Tensor

    def query(self, adapted: Any) -> Labelled:
        return self.queries


@frozen
class EpisodeShape:
    """The size of an episode.

    Args:
        ways: Classes in an episode, from 2; 1 for tasks whose targets are numbers.
        shots: Labelled examples of each class, from 1.
        queries: Images of each class to judge by, from 1.
    """

    ways: int = field(default=5, validator=ge(1))
    shots: int = field(default=1, validator=ge(1))
    queries: int = field(default=15, validator=ge(1))


class EpisodeSource(ABC):
    """Draws batches of episodes. A task whose episodes are no images brings its own."""

    @abstractmethod
    def draw(self, seed: int, indices: Tensor) -> Episodes:
        """Draw the episodes with the given numbers, a pure function of both arguments.

        Args:
            seed: Seed of the sequence of episodes.
            indices: int64 [task], numbers in that sequence.
        """


@frozen(eq=False)
class ImageEpisodeSource(EpisodeSource):
    """Draws image episodes from one split. Images stay on the device; episodes are gathered by index, without
    a loop.

    Args:
        images: float [image, channel, height, width], normalised.
        table: int64 [class, most images of a class]: positions in `images`, filled up with -1.
        labels: int64 [class]: the split's label of each row of the table.
        shape: Size of an episode.
    """

    images: Tensor
    table: Tensor
    labels: Tensor
    shape: EpisodeShape

    @classmethod
    def from_split(
        cls, split: MemorySplit, normalised: Tensor, shape: EpisodeShape, name: str
    ) -> ImageEpisodeSource:
        """Index a split by class.

        Args:
            split: Where the labels come from.
            normalised: float [image, …]: the split's images as a network takes them.
            shape: Size of an episode.
            name: Name of the split, for errors.

        Raises:
            TaskError: There are fewer classes than `ways`, or a class has fewer images than shots + queries.
        """
        present = split.labels.unique()
        members = [(split.labels == label).nonzero().flatten() for label in present.tolist()]
        fault = episode_fault(split.labels, shape, name)
        if fault:
            raise TaskError(fault)
        table = torch.full((len(members), max(map(len, members))), -1, device=normalised.device)
        for row, m in enumerate(members):
            table[row, : len(m)] = m
        return cls(normalised, table, present.to(normalised.device), shape)

    def draw(self, seed: int, indices: Tensor) -> ImageEpisodes:
        """Draw episodes: classes without replacement, then images of a class without replacement.

        So support and query never share an image.
        """
        ways, shots, queries = self.shape.ways, self.shape.shots, self.shape.queries
        device = self.table.device
        indices = indices.to(device)
        classes = torch.arange(len(self.table), device=device)
        order = hashed(derive(seed, "classes"), indices[:, None], classes[None, :]).argsort(
            dim=1, stable=True
        )
        rows = self.table[order[:, :ways]]  # [task, way, image of the class]
        slots = torch.arange(rows.shape[2], device=device)
        keys = hashed(derive(seed, "images"), indices[:, None, None], order[:, :ways, None], slots)
        keys = keys.masked_fill(rows < 0, torch.iinfo(torch.int64).max)
        chosen = rows.gather(2, keys.argsort(dim=2, stable=True)[:, :, : shots + queries])
        labels = torch.arange(ways, device=device)
        return ImageEpisodes(
            self._gather(chosen[:, :, :shots], labels),
            self._gather(chosen[:, :, shots:], labels),
            self.labels[order[:, :ways]],
        )

    def _gather(self, chosen: Tensor, labels: Tensor) -> Labelled:
        tasks, ways, count = chosen.shape
        images = self.images[chosen.reshape(-1)].view(tasks, ways * count, *self.images.shape[1:])
        return Labelled(images, labels.repeat_interleave(count).expand(tasks, -1))


def episode_fault(labels: Tensor, shape: EpisodeShape, name: str) -> str:
    """Return why episodes of a shape cannot be drawn from a split, or "".

    Args:
        labels: int64 [image], the split's.
        shape: Size of an episode.
        name: Name of the split.
    """
    counts = labels.unique(return_counts=True)[1].tolist()
    need = shape.shots + shape.queries
    short = [count for count in counts if count < need]
    if len(counts) < shape.ways:
        return (
            f"episodes: the {name} split must have at least ways = {shape.ways} classes, it has "
            f"{len(counts)}. Lower `episodes.ways`, or give the task more classes (for digits, "
            f"`rotations = 4`)."
        )
    if short:
        return (
            f"episodes: every class of the {name} split needs shots + queries = {need} images, but "
            f"{len(short)} have fewer (the smallest {min(short)}). Lower `episodes.shots` or "
            f"`episodes.queries`."
        )
    return ""
