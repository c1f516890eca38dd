"""The kind `task`: what is learnt, with its splits and the batches they are handed out in.

Images are kept as unsigned bytes; a batch holds them as normalised floats. Axes are written [batch, channel,
height, width] throughout. Where a task's inputs are no images, what is said of images holds for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from attrs import asdict, evolve, field, frozen
from torch import Tensor

from learnforge.errors import TaskError
from learnforge.files import fingerprint
from learnforge.kinds.form import form_of
from learnforge.spec import TaskInfo

if TYPE_CHECKING:
    from learnforge.kinds.seen.episodes import EpisodeShape, EpisodeSource


@frozen(eq=False)
class Batch:
    """One training batch, on the device.

    Args:
        images: float [batch, channel, height, width], normalised; [batch, …] for other inputs.
        labels: int64 [batch], or what else the task's form has for targets; -1 where the label is withheld.
        indices: int64 [batch], positions in the split.
        views: int64 [batch], which of the finitely many augmented views each image is; 0
            without augmentation.
        progress: Share of the training that is done, in [0, 1).
        label_smoothing: Share of the target that a loss on labels is to spread evenly, in [0, 1).
        soft_labels: Where images were mixed (mixup, cutmix) the share of each class, float [batch, class];
            `labels` are then those of the first image of each mix.
        form: Name of the task's form.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    views: Tensor
    progress: float = 0.0
    label_smoothing: float = 0.0
    soft_labels: Tensor | None = None
    form: str = "classification"

    @property
    def targets(self) -> Tensor:
        """What a loss on labels takes: `soft_labels` of mixed images, else `labels`."""
        return self.labels if self.soft_labels is None else self.soft_labels

    def loss(self, outputs: Tensor) -> Tensor:
        """Return the loss that the task's form has for outputs, smoothed as the training asks: a scalar; for
        classification the cross-entropy in nats.
        """
        return form_of(self.form).loss(outputs, self.targets, self.label_smoothing)


class Split(ABC):
    """Labelled images, or other inputs, in a fixed order. `MemorySplit` holds them; `StreamSplit` reads them
    as they are needed.
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
        """Return a split whose batches come out on `device`, holding the images there where they are held
        at all.
        """

    @abstractmethod
    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield (images uint8, labels, indices) for `order` (int64 [count], CPU), `batch_size` at a time.

        An empty order yields nothing.
        """


@frozen(eq=False, slots=False, repr=False)
class Task:
    """What is learnt: what it is, and its images in three splits. The test split is read once, at the end.

    Args:
        info: Names, shapes and normalisation.
        train: Images to learn from.
        validation: Images to choose by.
        test: Images to report on. For meta-learning its classes may be others than those of `train`.
        episodes: For tasks whose episodes are not drawn from the splits: makes a source of episodes from the
            split's name, the size of an episode and the device.
        unlabelled: Images without labels, which are -1, to learn from beside the others; None without any.
    """

    info: TaskInfo
    train: Split
    validation: Split
    test: Split
    episodes: Callable[[str, EpisodeShape, torch.device], EpisodeSource] | None = None
    unlabelled: Split | None = None

    def __repr__(self) -> str:
        images = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items() if len(split))
        return f"Task({self.info.name}, {self.info.form}{f': {images} images' if images else ''})"

    @property
    def splits(self) -> dict[str, Split]:
        """All splits by their names, `unlabelled` where there is one."""
        own = {"train": self.train, "validation": self.validation, "test": self.test}
        return own if self.unlabelled is None else {**own, "unlabelled": self.unlabelled}

    @cached_property
    def content(self) -> str:
        """Hash (hex) of everything that a result can depend on."""
        info = asdict(self.info, filter=lambda own, _: own.name != "name")
        return fingerprint([info, *(split.content for split in self.splits.values())])

    def origins_of(self, split: Split) -> list[str]:
        """List the original labels that a split shows, sorted; all of them where a target is no class."""
        if len(split) and not form_of(self.info.form).names_one_class:
            return sorted(self.info.origins)
        return sorted({self.info.origins[label] for label in split.labels.unique().tolist()})

    def load(self, device: torch.device) -> Task:
        """Return the task with its splits on a device."""
        loaded: dict[str, Any] = {name: split.load(device) for name, split in self.splits.items()}
        return evolve(self, **loaded)


class TaskSource(ABC):
    """A method of the kind `task`: a frozen attrs class whose fields are the options in `task = { use = …,
    … }`.

    The core calls `load` once in a run for each different source, before the first stage that needs it;
    what it returns is hashed into fingerprints, so it must be a pure function of the options and the files
    they name.
    """

    has_episodes: ClassVar[bool] = False
    """Whether the task brings its own source of episodes, and may lack images in its splits."""

    @abstractmethod
    def load(self) -> Task:
        """Read the data and return the task.

        Raises:
            TaskError: Files are missing or unusable; the text names them.
        """

    @classmethod
    def read(
        cls, files: Sequence[Path], task: TaskInfo, complain: Callable[[str], None]
    ) -> Iterator[tuple[list[str], Tensor]]:
        """Yield new inputs out of files, their names and values as splits hold them, for
        `learnforge predict`; for sources that name themselves in `TaskInfo.reading`.

        Args:
            files: Files and folders.
            task: How they are read, in `reading`.
            complain: Told what cannot be read, and is left out.
        """
        raise TaskError(f"{cls.__name__} reads no files but those of its own task")


@frozen(eq=False)
class GivenTask(TaskSource):
    """A task that is there already.

    Args:
        task: The task.
    """

    task: Task = field(repr=False)

    def load(self) -> Task:
        return self.task


def check_task(task: Task, source: str) -> None:
    """Refuse a task that no stage could use.

    Raises:
        TaskError: A split is empty, or its targets are not of the task's form.
    """
    if task.episodes is not None:
        return
    for name, split in task.splits.items():
        if len(split) == 0:
            raise TaskError(f"{source}: the {name} split must hold at least one image, it is empty")
    if fault := form_of(task.info.form).fault(task):
        raise TaskError(f"{source}: {fault}")


def describe_task(task: Task) -> dict[str, Any]:
    """Return the facts about a task that a report prints."""
    info, sizes = task.info, {name: len(split) for name, split in task.splits.items()}
    facts = {"name": info.name, "classes": list(info.classes), "shape": list(info.input_shape)}
    return {**facts, "inputs": info.inputs, **sizes}
