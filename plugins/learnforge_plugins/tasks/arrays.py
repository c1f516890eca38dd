"""Arrays of any shape out of an npz file: images, series, volumes, with classes, numbers or other targets.

The file has `x` and `y`, which are split, or `x_train`, `y_train`, and what there is of `x_validation`,
`y_validation`, `x_test`, `y_test`; what is missing is split off the training arrays. The first axis is the
example, the next one the channel, by which inputs are normalised.

Reference:
    NumPy documentation, the npz format. https://numpy.org/doc/stable/reference/generated/numpy.savez.html
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import ge, gt, lt
from torch import Tensor

from learnforge import Task, TaskError, TaskInfo, TaskSource, hookimpl
from learnforge_kit import MemorySplit, measure_channels, permutation, stratified

_PARTS = ("train", "validation", "test")


@frozen
class Arrays(TaskSource):
    """Arrays out of an npz file.

    Args:
        file: The file, as `numpy.savez` writes it.
        form: Name of the task's form; by default `classification` for whole numbers [example] and
            `regression` for floats.
        classes: Names of the classes, or of the columns of numbers; by default numbers, `0` and up.
        validation: Share of the training examples to validate with, where the file has none.
        test: Share to test with, where the file has none.
        split_seed: Which random split, from 0.
    """

    file: Path
    form: str | None = None
    classes: tuple[str, ...] | None = None
    validation: float = field(default=0.2, validator=[gt(0.0), lt(1.0)])
    test: float = field(default=0.2, validator=[gt(0.0), lt(1.0)])
    split_seed: int = field(default=0, validator=ge(0))

    def load(self) -> Task:
        parts = self._split(_read(self.file))
        inputs, targets = zip(*(parts[name] for name in _PARTS), strict=True)
        classes = self._names(targets)
        empty = [name for name, own in zip(_PARTS, inputs, strict=True) if not len(own)]
        if empty:
            raise TaskError(f"{self.file} must hold enough examples to split, none is left for {empty[0]}")
        form = self.form or ("regression" if targets[0].is_floating_point() else "classification")
        is_numbers = form == "regression"
        if is_numbers and targets[0].ndim == 1:
            targets = tuple(target[:, None] for target in targets)
        centre, spread = measure_channels(targets[0]) if is_numbers else ((), ())
        if is_numbers:
            targets = tuple((t - torch.tensor(centre)) / torch.tensor(spread) for t in targets)
        mean, std = measure_channels(inputs[0])
        name = self.file.stem
        info = TaskInfo(
            name,
            classes,
            tuple(f"{name}:{own}" for own in classes),
            tuple(inputs[0].shape[1:]),
            mean,
            std,
            form,
            inputs="floats" if inputs[0].is_floating_point() else "bytes",
            target_mean=centre,
            target_std=spread,
        )
        splits = [MemorySplit(*pair) for pair in zip(inputs, targets, strict=True)]
        return Task(info, splits[0], splits[1], splits[2])

    def _names(self, targets: tuple[Tensor, ...]) -> tuple[str, ...]:
        """Return the names of the classes, or of the columns."""
        if targets[0].is_floating_point():
            count = targets[0].shape[1] if targets[0].ndim > 1 else 1
        else:
            count = 1 + max(int(target.max()) for target in targets if len(target))
        names = self.classes or tuple(map(str, range(count)))
        if len(names) < count:
            raise TaskError(f"task.classes: must name {count} classes as {self.file} has, got {len(names)}")
        return names

    def _split(self, found: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """Split off the training arrays what the file lacks."""
        inputs, targets = found["train"]
        shares = [0.0 if name in found else getattr(self, name) for name in ("validation", "test")]
        if sum(shares) >= 1:
            raise TaskError(f"task: validation + test must be below 1, got {sum(shares):g}")
        if targets.ndim == 1 and not targets.is_floating_point():
            places = stratified(targets, shares, self.split_seed)
        else:
            order = permutation(self.split_seed, len(targets))
            sizes = [round(share * len(targets)) for share in shares]
            places = [part.sort().values for part in order.split([*sizes, len(targets) - sum(sizes)])]
        drawn = dict(zip(("validation", "test", "train"), places, strict=True))
        own = {name: (inputs[place], targets[place]) for name, place in drawn.items()}
        return {name: found[name] if name != "train" and name in found else own[name] for name in _PARTS}


def _read(file: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return inputs and targets of each part that a file has.

    Raises:
        TaskError: It cannot be read, has no arrays of these names, or they do not fit each other.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise TaskError(f"{file} cannot be read as arrays: {error}") from error
    named = {"train": ("x", "y")} if "x" in arrays else {name: (f"x_{name}", f"y_{name}") for name in _PARTS}
    missing = [key for key in named["train"] if key not in arrays]
    if missing:
        there = ", ".join(sorted(arrays)) or "nothing"
        raise TaskError(f"{file} must hold `x` and `y`, or `x_train` and `y_train`, it holds {there}")
    found = {
        name: _as_tensors(arrays[x], arrays[y], f"{file}: {x} and {y}")
        for name, (x, y) in named.items()
        if x in arrays and y in arrays
    }
    shapes = {name: list(pair[0].shape[1:]) for name, pair in found.items()}
    if any(shape != shapes["train"] or not shape for shape in shapes.values()):
        raise TaskError(f"{file}: all inputs must have one shape, of one axis at least, got {shapes}")
    return found


def _as_tensors(x: np.ndarray, y: np.ndarray, where: str) -> tuple[Tensor, Tensor]:
    if len(x) != len(y) or not len(x):
        raise TaskError(f"{where} must have a target for each example, got {len(y)} for {len(x)}")
    if any(array.dtype.kind not in "biuf" for array in (x, y)):
        raise TaskError(f"{where} must be numbers, got {x.dtype} and {y.dtype}")
    is_image = x.dtype == np.uint8 and x.ndim == 4
    inputs = torch.from_numpy(x if is_image else x.astype(np.float32))
    targets = torch.from_numpy(y.astype(np.float32 if y.dtype.kind == "f" else np.int64))
    if not bool(inputs.isfinite().all()) or not bool(targets.isfinite().all()):
        raise TaskError(f"{where} must be finite; fill what is missing, or leave those examples out")
    return inputs, targets


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"arrays": Arrays}
