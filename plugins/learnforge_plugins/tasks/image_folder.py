"""A folder of images, one sub-folder a class: `train/ val/ test/` with the classes inside, or the classes
alone, which are then split.

Grey, colour, palette, RGBA and 16-bit images of any size are converted to one shape; files that cannot be
read are all named before anything is trained. Files are read once: what is decoded is kept in the store of
images, where later runs find it. Of large sets what was measured is kept alone, and worker processes read the
files as they are needed.

Reference:
    torchvision documentation, ImageFolder.
    https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set
from pathlib import Path

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, in_, lt, optional
from torch import Tensor

from learnforge import Task, TaskError, TaskInfo, TaskSource, hookimpl, nearest
from learnforge_kit import (
    Decoded,
    Head,
    class_folders,
    decode_once,
    images_inside,
    members_of,
    permutation,
    read_heads,
    stratified,
)

_NAMES = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test",)}
_GLANCE = 100
"""Files whose heads are looked at before all are read."""


@frozen
class ImageFolder(TaskSource):
    """Images in folders.

    Args:
        root: The folder: with `train` (and perhaps `val`, `test`) inside, or with one sub-folder for each
            class. What is missing is split off the training images.
        size: Height and width in pixels: the shorter side is resized to it and the middle cut out. By default
            the size that all images have; where they differ, it must be given.
        channels: 1 for grey, 3 for colour; by default grey if every image is grey.
        classes: Names of the class folders to learn; all but the test classes by default.
        test_classes: Names of class folders that only the test split shows, all of their images, for
            meta-learning; by default it shows `classes`.
        labels_per_class: Training images to keep of each class; all by default.
        unlabelled: Folder of images without labels, at any depth in it, for methods that learn from such.
        validation: Share of the training images to validate with, where there is no folder for it.
        test: Share to test with, where there is no folder for it.
        split_seed: Which random split, from 0.
        memory_mib: Hold the decoded images, in the store, if they need at most so many MiB; decode them
            as they are needed otherwise.
        workers: Reading processes for images that are not held.
    """

    root: Path
    size: int | None = field(default=None, validator=optional(ge(1)))
    channels: int | None = field(default=None, validator=optional(in_((1, 3))))
    classes: tuple[str, ...] | None = None
    test_classes: tuple[str, ...] = ()
    labels_per_class: int | None = field(default=None, validator=optional(ge(1)))
    unlabelled: Path | None = None
    validation: float = field(default=0.2, validator=[gt(0.0), lt(1.0)])
    test: float = field(default=0.2, validator=[gt(0.0), lt(1.0)])
    split_seed: int = field(default=0, validator=ge(0))
    memory_mib: int = field(default=2048, validator=ge(0))
    workers: int = field(default=2, validator=ge(0))

    def load(self) -> Task:
        classes, files, labels = self._find()
        if others := self._others():
            files, labels = [*files, others], [*labels, torch.full((len(others),), -1)]
        decoded = self._read([file for part in files for file in part])
        ends = [*itertools.accumulate(map(len, files))]
        parts = [slice(end - len(own), end) for end, own in zip(ends, files, strict=True)]
        splits = [decoded.split(part, own, self.workers) for part, own in zip(parts, labels, strict=True)]
        name, (mean, std) = self.root.resolve().name, decoded.measure(parts[0])
        origins = tuple(f"{name}:{c}" for c in classes)
        info = TaskInfo(name, tuple(classes), origins, decoded.shape, mean, std)
        train, validation, test, *rest = splits
        return Task(info, train, validation, test, unlabelled=rest[0] if rest else None)

    def _others(self) -> list[Path]:
        """List the images without labels."""
        if self.unlabelled is None:
            return []
        found = images_inside(self.unlabelled) if self.unlabelled.is_dir() else []
        if not found:
            raise TaskError(f"task.unlabelled: must be a folder with images in it, {self.unlabelled} is none")
        return found

    def _find(self) -> tuple[list[str], list[list[Path]], list[Tensor]]:
        """Return class names, and for training, validation and test the files and their labels."""
        if not self.root.is_dir():
            raise TaskError(f"task.root: must be a folder of images, {self.root} is none")
        folders = {
            part: next((self.root / n for n in names if _has_folders(self.root / n)), None)
            for part, names in _NAMES.items()
        }
        train = folders["train"] or self.root
        held_out = [folder.name for folder in folders.values() if folder is not None]
        if held_out and not folders["train"]:
            raise TaskError(
                f"task.root: {self.root} holds `{held_out[0]}`, but no `train`; put the training classes "
                f"into {self.root / 'train'}"
            )
        there = [folder.name for folder in class_folders(train)]
        classes = self._choose(there, train)
        folders["train"] = train
        found = {
            part: _list(folder, classes, there) for part, folder in folders.items() if folder is not None
        }
        if self.test_classes:
            others, places = _list(train, self.test_classes, there)
            found["test"] = others, places + len(classes)
        files, labels = self._fill(found, classes)
        if self.labels_per_class:
            kept = _first(labels[0], self.labels_per_class, self.split_seed)
            files[0], labels[0] = [files[0][place] for place in kept.tolist()], labels[0][kept]
        return [*classes, *self.test_classes], files, labels

    def _choose(self, there: Sequence[str], train: Path) -> list[str]:
        """Return the classes to learn, out of the folders that are there."""
        for key, names in (("classes", self.classes or ()), ("test_classes", self.test_classes)):
            unknown = [name for name in names if name not in there]
            if unknown:
                raise TaskError(
                    f"task.{key}: {train} holds no folder {unknown[0]!r}; {nearest(unknown[0], there)}"
                )
        shared = sorted(set(self.classes or ()) & set(self.test_classes))
        if shared:
            raise TaskError(f"task.test_classes: must not be among the classes, {', '.join(shared)} are")
        learnt = self.classes if self.classes is not None else there
        classes = sorted(name for name in set(learnt) if name not in self.test_classes)
        if len(classes) < 2:
            raise TaskError(
                f"task.root: {train} must hold a sub-folder for each of at least two classes, it holds "
                f"{classes}"
            )
        return classes

    def _fill(
        self, found: dict[str, tuple[list[Path], Tensor]], classes: Sequence[str]
    ) -> tuple[list[list[Path]], list[Tensor]]:
        """Split off the training images what has no folder of its own."""
        files, labels = found["train"]
        shares = (0.0 if "validation" in found else self.validation, 0.0 if "test" in found else self.test)
        if sum(shares) >= 1:
            raise TaskError(f"task: validation + test must be below 1, got {sum(shares):g}")
        validation, test, train = stratified(labels, shares, self.split_seed)
        bare = [name for label, name in enumerate(classes) if not (labels[train] == label).any()]
        if bare:
            raise TaskError(
                f"task.root: every class must have an image to train with, but {self.root} holds too few of "
                f"{', '.join(bare)} to split off validation and test images"
            )
        parts = {"train": train, "validation": validation, "test": test}
        split = {n: ([files[i] for i in p.tolist()], labels[p]) for n, p in parts.items()}
        whole = [split[n] if n == "train" or n not in found else found[n] for n in parts]
        return [part[0] for part in whole], [part[1] for part in whole]

    def _read(self, files: Sequence[Path]) -> Decoded:
        """Read every file: hold the images unless they are too many, and find out size and channels."""
        shape = self._shape(read_heads(files[:: max(1, len(files) // _GLANCE)]))
        while True:
            size, channels = shape
            is_held = len(files) * channels * size * size <= self.memory_mib * 2**20
            decoded = decode_once(files, self.root, size, channels, is_held)
            found = self._shape(decoded.heads)
            if found == shape:
                return decoded
            shape = found  # the glance had missed what is the only image in colour

    def _shape(self, heads: Set[Head]) -> tuple[int, int]:
        """Return the size and channels of images with these heads."""
        sizes = sorted({(width, height) for width, height, _ in heads})
        if self.size is None and (len(sizes) > 1 or any(w != h for w, h in sizes)):
            raise TaskError(
                f"task.size: must be given, since the images have {len(sizes)} sizes, such as {sizes[:3]}"
            )
        channels = self.channels or (1 if all(is_grey for _, _, is_grey in heads) else 3)
        return self.size or (sizes[0][0] if sizes else 1), channels


def _has_folders(folder: Path) -> bool:
    """Tell a split's folder, which holds class folders, from a class that has a split's name."""
    return folder.is_dir() and bool(class_folders(folder))


def _list(folder: Path, classes: Sequence[str], known: Sequence[str]) -> tuple[list[Path], Tensor]:
    """List the image files of classes, sorted by name; a folder that the training images lack is refused."""
    extra = [own.name for own in class_folders(folder) if own.name not in known]
    if extra:
        raise TaskError(f"{folder} holds classes that the training folder has not: {', '.join(extra)}")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        own = images_inside(folder / name)
        files += own
        labels += [label] * len(own)
    if not files:
        raise TaskError(f"{folder} holds no image in its class folders {', '.join(classes[:5])}")
    return files, torch.tensor(labels)


def _first(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return the places of `count` random images of each class, ascending."""
    order = permutation(seed, len(labels))
    kept = [order[places[:count]] for _, places in members_of(labels[order])]
    return torch.cat(kept).sort().values


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"image-folder": ImageFolder}
