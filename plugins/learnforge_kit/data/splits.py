"""Splits held in memory or read from files, and what is measured of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import torch
from attrs import evolve, field, frozen
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from learnforge.errors import TaskError, VanishedError
from learnforge.files import fingerprint
from learnforge.kinds.task import Split
from learnforge_kit.drawing import permutation


@frozen(eq=False, slots=False, repr=False)
class MemorySplit(Split):
    """A split that is held as tensors.

    Args:
        images: uint8 [count, channel, height, width].
        labels: int64 [count].
    """

    images: Tensor
    labels: Tensor

    @classmethod
    def empty(cls) -> MemorySplit:
        """Return a split without images, for tasks that bring their own episodes."""
        return cls(torch.zeros(0, 1, 1, 1, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))

    @cached_property
    def content(self) -> str:
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.labels.tolist())).encode())
        digest.update(self.images.cpu().contiguous().numpy().data)
        return digest.hexdigest()

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


class _Decoded(Dataset[Tensor | TaskError]):
    """The files of a `StreamSplit`, read by DataLoader workers."""

    def __init__(self, files: Sequence[Path], decode: Callable[[Path], Tensor]):
        self.files, self.decode = files, decode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor | TaskError:
        try:
            return self.decode(self.files[index])
        except TaskError as error:  # an error that a worker raises comes with the worker's traceback in it
            return error


def _collate(images: list[Tensor | TaskError]) -> Tensor | TaskError:
    faults = [image for image in images if isinstance(image, TaskError)]
    return faults[0] if faults else default_collate(images)


@frozen(eq=False, repr=False)
class StreamSplit(Split):
    """A split whose images are read from files by DataLoader workers, batch by batch.

    Args:
        files: One file an image.
        labels: int64 [count].
        decode: Reads a file into uint8 [channel, height, width]; a module-level callable, since workers
            unpickle it.
        content: Hash of the files.
        workers: Reading processes; 0 reads in this process.
        device: Where batches come out.
    """

    files: Sequence[Path]
    labels: Tensor
    decode: Callable[[Path], Tensor]
    content: str
    workers: int = 2
    device: torch.device = field(factory=lambda: torch.device("cpu"))

    def select(self, indices: Tensor) -> StreamSplit:
        files = [self.files[i] for i in indices.tolist()]
        return evolve(
            self,
            files=files,
            labels=self.labels[indices],
            content=fingerprint([self.content, indices.tolist()]),
        )

    def load(self, device: torch.device) -> StreamSplit:
        return evolve(self, device=device)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        if not len(order):
            return
        loader = DataLoader(
            _Decoded(self.files, self.decode),
            sampler=order.tolist(),
            batch_size=batch_size,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            collate_fn=_collate,
            generator=torch.Generator(),  # else the loader draws a seed from the global generator
        )
        for indices, images in zip(order.split(batch_size), loader, strict=True):
            if isinstance(images, TaskError):
                words = "It could be read when the run began; put it back, and go on"
                raise VanishedError(f"{images}. {words}")
            labels = self.labels[indices].to(self.device, non_blocking=True)
            yield (
                images.to(self.device, non_blocking=True),
                labels,
                indices.to(self.device, non_blocking=True),
            )


_COUNTED = 256
"""Images whose bytes are counted at a time: counting takes eight bytes for each."""


def measure_channels(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 images [count, channel, height, width], in
    [0, 1].

    A channel without any spread gets the deviation 1, so that normalising it stays finite.
    """
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
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        members = members[permutation(seed + label, len(members))]
        start = 0
        for part, share in zip(parts, fractions, strict=False):
            size = min(len(members) - start, max(int(share > 0), round(share * len(members))))
            part.append(members[start : start + size])
            start += size
        parts[-1].append(members[start:])
    return [torch.cat(part).sort().values if part else torch.empty(0, dtype=torch.int64) for part in parts]
