"""Splits held in memory or read from files, and what is measured of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from attrs import frozen
from torch import Tensor

from learnforge.kinds.task import Split
from learnforge_kit.drawing import permutation


@frozen(eq=False, slots=False, repr=False)
class MemorySplit(Split):
    """A split that is held as tensors.

    Args:
        images: uint8 [count, channel, height, width], or float32 [count, …] for tasks whose inputs are
            floats.
        labels: int64 [count], or what else the task's form has for targets.
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def empty(cls) -> MemorySplit:
        """Return a split without images, for tasks that bring their own episodes."""
        return cls(torch.zeros(0, 1, 1, 1, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))

    @cached_property
    def content(self) -> str:
        images = self.images.cpu().contiguous().numpy()
        digests = [hashlib.sha256(image).digest() for image in images]
        return content_of(self.images.shape[1:], self.labels, b"".join(digests))

    def select(self, indices: Tensor) -> MemorySplit:
        return MemorySplit(self.images[indices], self.labels[indices])

    def load(self, device: torch.device) -> MemorySplit:
        return (
            self
            if self.images.device == device
            else MemorySplit(self.images.to(device), self.labels.to(device))
        )

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        order = order.to(self.images.device)
        for indices in order.split(batch_size) if len(order) else ():
            yield self.images[indices], self.labels[indices], indices


def content_of(shape: Sequence[int], labels: Tensor, digests: bytes) -> str:
    """Return the hash (hex) of a split that holds its images: of their shape, their labels, and the SHA-256
    of each.
    """
    digest = hashlib.sha256(repr((tuple(shape), labels.tolist())).encode())
    digest.update(digests)
    return digest.hexdigest()


_COUNTED = 256
"""Images whose bytes are counted at a time: counting takes eight bytes for each."""


def measure_channels(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 images [count, channel, height, width], in
    [0, 1]; of floats [count, channel, …] in their own units.

    A channel without any spread gets the deviation 1, so that normalising it stays finite.
    """
    if images.is_floating_point():
        channels = images.double().transpose(0, 1).flatten(1)
        spread = channels.std(1, correction=0)
        spread[channels.amax(1) == channels.amin(1)] = 1.0
        return tuple(channels.mean(1).tolist()), tuple(spread.tolist())
    # counts of the 256 byte values: exact, and small for any number of images
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = sum(
            (torch.bincount(part[:, channel].flatten(), minlength=256) for part in images.split(_COUNTED)),
            torch.zeros(256, dtype=torch.int64),
        ).double()
        mean = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - mean) ** 2).sum() / counts.sum())
        means.append(mean)
        # rounding leaves a variance of about 1e-35 where there is one value only
        stds.append(variance**0.5 if counts.count_nonzero() > 1 else 1.0)
    return tuple(means), tuple(stds)


def members_of(labels: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each label, ascending, and the positions that have it, int64 and ascending."""
    found, counts = labels.unique(return_counts=True)
    places = labels.argsort(stable=True).split(counts.tolist()) if len(labels) else ()
    return zip(found.tolist(), places, strict=True)


def stratified(labels: Tensor, fractions: Sequence[float], seed: int) -> list[Tensor]:
    """Split positions so that every class has the same share in every part.

    Args:
        labels: int64 [count].
        fractions: Shares of all parts but the last, which takes the rest.
        seed: Which split.

    Returns:
        One int64 tensor of positions for each part, ascending. A part with a share above 0 gets at least one
        image of a class that has enough of them.
    """
    parts: list[list[Tensor]] = [[] for _ in range(len(fractions) + 1)]
    for label, members in members_of(labels):
        members = members[permutation(seed + label, len(members))]
        start = 0
        for part, share in zip(parts, fractions, strict=False):
            size = min(len(members) - start, max(int(share > 0), round(share * len(members))))
            part.append(members[start : start + size])
            start += size
        parts[-1].append(members[start:])
    return [torch.cat(part).sort().values if part else torch.empty(0, dtype=torch.int64) for part in parts]
