"""A folder of images, one sub-folder a class: `train/ val/ test/` with the classes inside, or the classes
alone, which are then split.

Grey, colour, palette, RGBA and 16-bit images of any size are converted to one shape; files that cannot be
read are all named before anything is trained. Small sets are held in memory; large ones are read by worker
processes as they are needed.

Reference:
    torchvision documentation, ImageFolder.
    https://docs.pytorch.org/vision/stable/generated/torchvision.datasets.ImageFolder.html
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, in_, lt, optional
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from learnforge import Split, Task, TaskError, TaskInfo, TaskSource, fingerprint, hookimpl, nearest
from learnforge_kit import (
    FORMATS,
    MemorySplit,
    StreamSplit,
    class_folders,
    decode_image,
    images_inside,
    measure_channels,
    permutation,
    require_file,
    stratified,
)

_NAMES = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test",)}
_SAMPLE = 1000
"""Images read to measure mean and deviation where not all are held in memory."""


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
        memory_mib: Hold the images in memory if they need at most so many MiB; read them as they are
            needed otherwise.
        workers: Reading processes for images that are not held in memory.
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
        others = self._others()
        size, channels = self._inspect([file for part in (*files, others) for file in part])
        decode = partial(decode_image, size=size, channels=channels)
        count = sum(map(len, files)) + len(others)
        is_held = count * channels * size * size <= self.memory_mib * 2**20
        train, validation, test = (
            self._split(part, part_labels, decode, is_held)
            for part, part_labels in zip(files, labels, strict=True)
        )
        rest = self._split(others, torch.full((len(others),), -1), decode, is_held) if others else None
        sample = files[0] if is_held else files[0][:: max(1, len(files[0]) // _SAMPLE)]
        mean, std = measure_channels(_decode_all(sample, decode))
        name = self.root.resolve().name
        info = TaskInfo(
            name, tuple(classes), tuple(f"{name}:{c}" for c in classes), (channels, size, size), mean, std
        )
        return Task(info, train, validation, test, unlabelled=rest)

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

    def _inspect(self, files: Sequence[Path]) -> tuple[int, int]:
        """Read every header: name the files that cannot be used, and find out size and channels."""
        with ThreadPoolExecutor() as pool:
            heads = list(pool.map(_head, files))
        bad = [f"{file}: {head}" for file, head in zip(files, heads, strict=True) if isinstance(head, str)]
        if bad:
            shown = "\n  ".join(bad[:20]) + (f"\n  and {len(bad) - 20} more" if len(bad) > 20 else "")
            raise TaskError(
                f"{len(bad)} of {len(files)} files in {self.root} cannot be read as images; mend or remove "
                f"them:\n  {shown}"
            )
        good = [head for head in heads if not isinstance(head, str)]
        sizes = {(width, height) for width, height, _ in good}
        if self.size is None and (len(sizes) > 1 or any(w != h for w, h in sizes)):
            raise TaskError(
                f"task.size: must be given, since the images have {len(sizes)} sizes, such as "
                f"{sorted(sizes)[:3]}"
            )
        channels = self.channels or (1 if all(is_grey for _, _, is_grey in good) else 3)
        return self.size or next(iter(sizes))[0], channels

    def _split(self, files: list[Path], labels: Tensor, decode: partial[Tensor], is_held: bool) -> Split:
        if is_held:
            return MemorySplit(_decode_all(files, decode), labels)
        # the bytes of a large set are too many to hash; size and time of change tell an edited file
        stats = [[os.path.relpath(f, self.root), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
        keywords = {key: str(value) for key, value in decode.keywords.items()}
        return StreamSplit(
            files, labels, decode, fingerprint([stats, labels.tolist(), keywords]), self.workers
        )


def _head(file: Path) -> tuple[int, int, bool] | str:
    """Return width, height and whether the image is grey, or why it cannot be read."""
    try:
        require_file(file)
        with Image.open(file, formats=FORMATS) as image:
            head = (image.width, image.height, image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F"))
            image.verify()
        # verify() spares the pixels; a cut-off file only shows when they are read
        with Image.open(file, formats=FORMATS) as image:
            image.load()
    except UnidentifiedImageError:
        return "no known image format"
    except TaskError:
        return "no regular file"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return head


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
    kept = [order[labels[order] == label][:count] for label in labels.unique().tolist()]
    return torch.cat(kept).sort().values


def _decode_all(files: Sequence[Path], decode: partial[Tensor]) -> Tensor:
    shape = decode.keywords["channels"], decode.keywords["size"], decode.keywords["size"]
    images = torch.empty(len(files), *shape, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        for image, decoded in zip(images, pool.map(decode, files), strict=True):
            image.copy_(decoded)
    return images


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"image-folder": ImageFolder}
