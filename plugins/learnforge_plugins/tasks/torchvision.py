"""torchvision's data sets by name: MNIST, FashionMNIST, KMNIST, USPS, SVHN, CIFAR10, CIFAR100, STL10,
Omniglot.

The official test split is the test split; validation images are split off the official training split.
Omniglot has other characters in its evaluation set than in its background set, so it serves meta-learning as
it is.

Reference:
    torchvision documentation, Datasets. https://docs.pytorch.org/vision/stable/datasets.html
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import deep_iterable, ge, gt, in_, lt, optional
from torch import Tensor

from learnforge import MemorySplit, Task, TaskError, TaskInfo, TaskSource, hookimpl
from learnforge.randomness import permutation
from learnforge.task import measure_channels, stratified

_SPLIT: dict[str, Callable[[bool], dict[str, Any]]] = {
    "MNIST": lambda is_train: {"train": is_train},
    "FashionMNIST": lambda is_train: {"train": is_train},
    "KMNIST": lambda is_train: {"train": is_train},
    "USPS": lambda is_train: {"train": is_train},
    "CIFAR10": lambda is_train: {"train": is_train},
    "CIFAR100": lambda is_train: {"train": is_train},
    "SVHN": lambda is_train: {"split": "train" if is_train else "test"},
    "STL10": lambda is_train: {"split": "train" if is_train else "test"},
    "Omniglot": lambda is_train: {"background": is_train},
}
Name = Literal["MNIST", "FashionMNIST", "KMNIST", "USPS", "CIFAR10", "CIFAR100", "SVHN", "STL10", "Omniglot"]
_LABELS: Any = optional(deep_iterable(ge(0)))


@frozen
class TorchvisionTask(TaskSource):
    """One of torchvision's data sets.

    Args:
        name: Class name in `torchvision.datasets`.
        root: Folder where the data set is, or where it is downloaded to, laid out as torchvision does.
        download: Fetch it if it is missing; needs the network.
        size: Height and width in pixels to resize to; as the data set has them by default (28 for Omniglot).
        validation: Share of the training images to validate with; of Omniglot, share of the characters.
        classes: Labels to keep, from 0; all by default.
        labels_per_class: Training images to keep of each class; all by default.
        split_seed: Which random split of the training images, from 0.
    """

    name: Name = field(validator=in_(tuple(_SPLIT)))
    root: Path
    download: bool = False
    size: int | None = field(default=None, validator=optional(ge(4)))
    validation: float = field(default=0.1, validator=[gt(0.0), lt(1.0)])
    classes: tuple[int, ...] | None = field(default=None, validator=_LABELS)
    labels_per_class: int | None = field(default=None, validator=optional(ge(1)))
    split_seed: int = field(default=0, validator=ge(0))

    def load(self) -> Task:
        images, labels, names = self._read(True)
        test_images, test_labels, test_names = self._read(False)
        if self.name == "Omniglot":  # other characters, so other classes
            test_labels, names = test_labels + len(names), [*names, *test_names]
        kept = (
            sorted(set(self.classes))
            if self.classes
            else sorted({*labels.unique().tolist(), *test_labels.unique().tolist()})
        )
        unknown = [c for c in kept if c >= len(names) or c < 0]
        if unknown:
            raise TaskError(f"task.classes: {self.name} has the labels 0 to {len(names) - 1}, got {unknown}")
        train, validation = (part for part in self._parts(labels, kept))
        mean, std = measure_channels(images[train])
        info = TaskInfo(
            name=self.name,
            classes=tuple(names[c] for c in kept),
            origins=tuple(f"{self.name}:{names[c]}" for c in kept),
            input_shape=(images.shape[1], images.shape[2], images.shape[3]),
            mean=mean,
            std=std,
        )
        places = torch.full((len(names),), -1)
        places[kept] = torch.arange(len(kept))
        test = torch.isin(test_labels, torch.tensor(kept)).nonzero().flatten()
        return Task(
            info,
            MemorySplit(images[train], places[labels[train]]),
            MemorySplit(images[validation], places[labels[validation]]),
            MemorySplit(test_images[test], places[test_labels[test]]),
        )

    def _split(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Split off validation images: of every class, or for Omniglot whole characters."""
        if self.name != "Omniglot":
            validation, train = stratified(labels, (self.validation,), self.split_seed)
            return validation, train
        order = permutation(self.split_seed, int(labels.max()) + 1)
        held_out = torch.isin(labels, order[: max(1, round(self.validation * len(order)))])
        return held_out.nonzero().flatten(), (~held_out).nonzero().flatten()

    def _parts(self, labels: Tensor, kept: list[int]) -> tuple[Tensor, Tensor]:
        validation, train = self._split(labels)
        validation, train = (
            part[torch.isin(labels[part], torch.tensor(kept))] for part in (validation, train)
        )
        if self.labels_per_class:
            shuffled = train[
                torch.randperm(len(train), generator=torch.Generator().manual_seed(self.split_seed))
            ]
            few = [
                shuffled[labels[shuffled] == label][: self.labels_per_class]
                for label in labels[train].unique().tolist()
            ]
            train = torch.cat(few).sort().values
        return train, validation

    def _read(self, is_train: bool) -> tuple[Tensor, Tensor, list[str]]:
        """Return images uint8 [image, channel, height, width], labels int64 [image], and class names."""
        from torchvision import datasets  # slow to import

        cls = getattr(datasets, self.name)
        try:
            data = cls(root=str(self.root), download=self.download, **_SPLIT[self.name](is_train))
        except (RuntimeError, OSError) as error:
            hint = "check the network" if self.download else "set `download = true`, or put the files there"
            file = inspect.getsourcefile(cls)
            raise TaskError(
                f"task: {self.name} must be in {self.root}, laid out as torchvision.datasets.{self.name} "
                "does "
                f"({Path(file).name if file else ''}); {hint}. torchvision says: {error}"
            ) from error
        return self._tensors(data)

    def _tensors(self, data: Any) -> tuple[Tensor, Tensor, list[str]]:
        if self.name == "Omniglot":
            names = [str(c).replace("/", " ") for c in data._characters]
            size = self.size or 28
            pictures = [data[i] for i in range(len(data))]
            # strokes are dark; resized by area, so that thin strokes do not break
            stacked = torch.stack([torch.from_numpy(np.array(image.convert("L"))) for image, _ in pictures])[
                :, None
            ]
            labels = torch.tensor([label for _, label in pictures])
            return _resized(stacked, size), labels, names
        raw = data.data
        images = torch.from_numpy(raw) if isinstance(raw, np.ndarray) else raw
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] in (1, 3):
            images = images.permute(0, 3, 1, 2)
        labels = torch.as_tensor(np.asarray(data.targets if hasattr(data, "targets") else data.labels)).long()
        names = list(getattr(data, "classes", [])) or [str(label) for label in range(int(labels.max()) + 1)]
        return _resized(images.contiguous(), self.size), labels, names


def _resized(images: Tensor, size: int | None) -> Tensor:
    if size is None or images.shape[-1] == size == images.shape[-2]:
        return images
    mode = "area" if size < images.shape[-1] else "bilinear"
    parts = [F.interpolate(part.float(), (size, size), mode=mode) for part in images.split(4096)]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"torchvision": TorchvisionTask}
