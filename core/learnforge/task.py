"""What is learnt: a task with its splits, the batches they are handed out in, and where tasks come from.

Images are kept as unsigned bytes; a batch holds them as normalised floats. Axes are written [batch, channel,
height, width] throughout.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from attrs import evolve, field, frozen
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from learnforge.episodes import EpisodeShape, EpisodeSource
from learnforge.errors import TaskError
from learnforge.files import fingerprint
from learnforge.randomness import permutation

Form = Literal["classification", "regression", "environment"]


@frozen
class TaskInfo:
    """What a network must know of a task: plain data, kept with every artifact.

    Args:
        name: Name for people.
        classes: Class names; a label is an index into them. Names of numbers for regression, of actions for
            environments.
        origins: For each class the original label that it was made from, as `data set:label`. A rotated 4 and
            an upright 4 have one origin, so no split of labels can tear them apart.
        input_shape: Channels, height and width of an image.
        mean: Mean of each channel of the training images, in [0, 1].
        std: Standard deviation of each channel, in (0, 1].
        form: What sort of task it is.
    """

    name: str
    classes: tuple[str, ...]
    origins: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    form: Form = "classification"

    @property
    def outputs(self) -> int:
        """Number of a network's outputs: the classes; for environments the means of all actions and the
        logarithms of their deviations.
        """
        return len(self.classes) * (2 if self.form == "environment" else 1)


@frozen(eq=False)
class Batch:
    """One training batch, on the device.

    Args:
        images: float [batch, channel, height, width], normalised.
        labels: int64 [batch]; -1 where the label is withheld.
        indices: int64 [batch], positions in the split.
        views: int64 [batch], which of the finitely many augmented views each image is; 0 without
            augmentation.
        progress: Share of the training that is done, in [0, 1).
        label_smoothing: Share of the target that a loss on labels is to spread evenly, in [0, 1).
        soft_labels: Where images were mixed (mixup, cutmix) the share of each class, float [batch, class];
            `labels` are then those of the first image of each mix.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    views: Tensor
    progress: float = 0.0
    label_smoothing: float = 0.0
    soft_labels: Tensor | None = None

    @property
    def targets(self) -> Tensor:
        """What a cross-entropy takes: `soft_labels` of mixed images, else `labels`."""
        return self.labels if self.soft_labels is None else self.soft_labels


class Split(ABC):
    """Labelled images in a fixed order. `MemorySplit` holds them; `StreamSplit` reads them as they are
    needed.
    """

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} images)"

    @property
    @abstractmethod
    def content(self) -> str:
        """Hash (hex) of the images and labels: what a fingerprint says about the data."""

    @abstractmethod
    def select(self, indices: Tensor) -> Split:
        """Return the images at `indices` (int64 [count]) as a split of its own."""

    @abstractmethod
    def load(self, device: torch.device) -> Split:
        """Return a split whose batches come out on `device`, holding the images there where they are held at
        all.
        """

    @abstractmethod
    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (images uint8, labels, indices) for `order` (int64 [count], CPU), `batch_size` at a time.

        An empty order yields nothing.
        """


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


class _Decoded(Dataset[Tensor]):
    """The files of a `StreamSplit`, read by DataLoader workers."""

    def __init__(self, files: Sequence[Path], decode: Callable[[Path], Tensor]):
        self.files, self.decode = files, decode

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.decode(self.files[index])


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
            generator=torch.Generator(),  # else the loader draws a seed from the global generator
        )
        for indices, images in zip(order.split(batch_size), loader, strict=True):
            labels = self.labels[indices].to(self.device, non_blocking=True)
            yield (
                images.to(self.device, non_blocking=True),
                labels,
                indices.to(self.device, non_blocking=True),
            )


@frozen(eq=False, slots=False, repr=False)
class Task:
    """A classification task: what it is, and its images in three splits. The test split is read once, at the
    end.

    Args:
        info: Names, shapes and normalisation.
        train: Images to learn from.
        validation: Images to choose by.
        test: Images to report on. For meta-learning its classes may be others than those of `train`.
        episodes: For tasks whose episodes are not drawn from the splits: makes a source of episodes from the
            split's name, the size of an episode and the device.
    """

    info: TaskInfo
    train: Split
    validation: Split
    test: Split
    episodes: Callable[[str, EpisodeShape, torch.device], EpisodeSource] | None = None

    def __repr__(self) -> str:
        sizes = {"train": self.train, "validation": self.validation, "test": self.test}
        images = ", ".join(f"{len(split):,} {name}" for name, split in sizes.items() if len(split))
        return f"Task({self.info.name}, {self.info.form}{f': {images} images' if images else ''})"

    @cached_property
    def content(self) -> str:
        """Hash (hex) of everything that a result can depend on."""
        info = {
            name: getattr(self.info, name)
            for name in ("classes", "origins", "input_shape", "mean", "std", "form")
        }
        return fingerprint([info, self.train.content, self.validation.content, self.test.content])

    def origins_of(self, split: Split) -> list[str]:
        """List the original labels that a split shows, sorted."""
        return sorted({self.info.origins[label] for label in split.labels.unique().tolist()})

    def load(self, device: torch.device) -> Task:
        """Return the task with its splits on a device."""
        return evolve(
            self,
            train=self.train.load(device),
            validation=self.validation.load(device),
            test=self.test.load(device),
        )


class TaskSource(ABC):
    """A method of the kind `task`: a frozen attrs class whose fields are the options in `task = { use = …, …
    }`.

    The core calls `load` once in a run for each different source, before the first stage that needs it; what
    it returns is hashed into fingerprints, so it must be a pure function of the options and the files they
    name.
    """

    has_episodes: ClassVar[bool] = False
    """Whether the task brings its own source of episodes, and may lack images in its splits."""

    @abstractmethod
    def load(self) -> Task:
        """Read the data and return the task.

        Raises:
            TaskError: Files are missing or unusable; the text names them.
        """


@frozen(eq=False)
class GivenTask(TaskSource):
    """A task that is there already.

    Args:
        task: The task.
    """

    task: Task = field(repr=False)

    def load(self) -> Task:
        return self.task


def measure_channels(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel of uint8 images [count, channel, height, width], in
    [0, 1].

    A channel without any spread gets the deviation 1, so that normalising it stays finite.
    """
    # counts of the 256 byte values: exact, and small for any number of images
    values = torch.arange(256, dtype=torch.float64) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten().long(), minlength=256).double()
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


def check_task(task: Task, source: str) -> None:
    """Refuse a task that no stage could use.

    Raises:
        TaskError: A split is empty, or there is only one class.
    """
    info = task.info
    if task.episodes is not None:
        return
    for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test)):
        if len(split) == 0:
            raise TaskError(f"{source}: the {name} split must hold at least one image, it is empty")
    if info.outputs < 2:
        raise TaskError(
            f"{source}: a classification task needs at least two classes, got {list(info.classes)}"
        )


def describe_task(task: Task) -> dict[str, Any]:
    """Return the facts about a task that a report prints."""
    return {
        "name": task.info.name,
        "classes": list(task.info.classes),
        "shape": list(task.info.input_shape),
        "train": len(task.train),
        "validation": len(task.validation),
        "test": len(task.test),
    }
