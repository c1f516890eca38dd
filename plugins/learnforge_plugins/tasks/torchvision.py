"""torchvision's data sets by name: MNIST, FashionMNIST, KMNIST, USPS, SVHN, CIFAR10, CIFAR100, STL10.

The official test split is the test split; validation images are split off the official training split.

Reference:
    torchvision documentation, Datasets. https://docs.pytorch.org/vision/stable/datasets.html
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import deep_iterable, ge, gt, in_, lt, optional
from torch import Tensor

from learnforge import Task, TaskError, TaskInfo, TaskSource, hookimpl
from learnforge_kit import MemorySplit, measure_channels, open_dataset, resize_images, stratified

_SPLIT: dict[str, Callable[[bool], dict[str, Any]]] = {
    "MNIST": lambda is_train: {"train": is_train},
    "FashionMNIST": lambda is_train: {"train": is_train},
    "KMNIST": lambda is_train: {"train": is_train},
    "USPS": lambda is_train: {"train": is_train},
    "CIFAR10": lambda is_train: {"train": is_train},
    "CIFAR100": lambda is_train: {"train": is_train},
    "SVHN": lambda is_train: {"split": "train" if is_train else "test"},
    "STL10": lambda is_train: {"split": "train" if is_train else "test"},
}
Name = Literal["MNIST", "FashionMNIST", "KMNIST", "USPS", "CIFAR10", "CIFAR100", "SVHN", "STL10"]
_LABELS: Any = optional(deep_iterable(ge(0)))


@frozen
class TorchvisionTask(TaskSource):
    """One of torchvision's data sets.

    Args:
        name: Class name in `torchvision.datasets`.
        root: Folder where the data set is, or where it is downloaded to, laid out as torchvision does.
        download: Fetch it if it is missing; needs the network.
        size: Height and width in pixels to resize to; as the data set has them by default.
        validation: Share of the training images to validate with.
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
        test_images, test_labels, _ = self._read(False)
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

    def _parts(self, labels: Tensor, kept: list[int]) -> tuple[Tensor, Tensor]:
        validation, train = stratified(labels, (self.validation,), self.split_seed)
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
        return self._tensors(open_dataset(self.name, self.root, self.download, **_SPLIT[self.name](is_train)))

    def _tensors(self, data: Any) -> tuple[Tensor, Tensor, list[str]]:
        raw = data.data
        images = torch.from_numpy(raw) if isinstance(raw, np.ndarray) else raw
        if images.ndim == 3:
            images = images[:, None]
        elif images.shape[-1] in (1, 3):
            images = images.permute(0, 3, 1, 2)
        labels = torch.as_tensor(np.asarray(data.targets if hasattr(data, "targets") else data.labels)).long()
        names = list(getattr(data, "classes", [])) or [str(label) for label in range(int(labels.max()) + 1)]
        return resize_images(images.contiguous(), self.size), labels, names


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"torchvision": TorchvisionTask}
