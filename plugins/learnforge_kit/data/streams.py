"""Splits that are read from files as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from attrs import evolve, field, frozen
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from learnforge.errors import TaskError
from learnforge.files import fingerprint
from learnforge.kinds.task import Split
from learnforge_kit.errors import VanishedError


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
