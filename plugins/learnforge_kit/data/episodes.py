"""Episodes drawn from the images of a split."""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from learnforge.errors import TaskError
from learnforge.kinds.seen.episodes import Episodes, EpisodeShape, EpisodeSource, Labelled
from learnforge.randomness import derive
from learnforge_kit.data.splits import members_of
from learnforge_kit.drawing import hashed


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
    def of(cls, images: Tensor, labels: Tensor, shape: EpisodeShape, name: str) -> ImageEpisodeSource:
        """Index images by class.

        Args:
            images: float [image, …], as a network takes them.
            labels: int64 [image].
            shape: Size of an episode.
            name: Name of the split, for errors.

        Raises:
            TaskError: There are fewer classes than `ways`, or a class has fewer images than shots + queries.
        """
        if fault := episode_fault(labels, shape, name):
            raise TaskError(fault)
        present, members = zip(*members_of(labels), strict=True)
        table = nn.utils.rnn.pad_sequence([*members], batch_first=True, padding_value=-1)
        return cls(images, table.to(images.device), torch.tensor(present, device=images.device), shape)

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
