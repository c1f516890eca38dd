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
        found = _read(self.file)
        form = self.form or _form_of(found["train"][1])
        parts = self._split({name: (x, _as_targets(y, form)) for name, (x, y) in found.items()}, form)
        inputs, targets = zip(*(parts[name] for name in _PARTS), strict=True)
        classes = self._names(targets, form)
        empty = [name for name, own in zip(_PARTS, inputs, strict=True) if not len(own)]
        if empty:
            raise TaskError(f"{self.file} must hold enough examples to split, none is left for {empty[0]}")
        centre, spread = measure_channels(targets[0]) if form == "regression" else ((), ())
        if form == "regression":
            mean_of, std_of = (torch.tensor(own, dtype=torch.float64) for own in (centre, spread))
            targets = tuple(((own - mean_of) / std_of).float() for own in targets)
        mean, std = measure_channels(inputs[0])
        _require_spread(inputs[0], mean, std, self.file)
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
        splits = [MemorySplit(_as_held(x), y) for x, y in zip(inputs, targets, strict=True)]
        return Task(info, splits[0], splits[1], splits[2])

    def _names(self, targets: tuple[Tensor, ...], form: str) -> tuple[str, ...]:
        """Return the names of the classes, or of the columns."""
        if targets[0].is_floating_point():
            count = targets[0].shape[1] if targets[0].ndim > 1 else 1
        else:
            count = 1 + max(int(target.max()) for target in targets if len(target))
            seen = set().union(*(target.unique().tolist() for target in targets))
            if form == "classification" and self.classes is None and len(seen) < count:
                raise TaskError(
                    f"{self.file}: classes must be 0, 1, … without gaps, got {sorted(seen)[:5]}; number them "
                    "so, or name all of them by `classes`"
                )
        names = self.classes or tuple(map(str, range(count)))
        if len(names) < count:
            raise TaskError(f"task.classes: must name {count} classes as {self.file} has, got {len(names)}")
        return names

    def _split(self, found: dict[str, tuple[Tensor, Tensor]], form: str) -> dict[str, tuple[Tensor, Tensor]]:
        """Split off the training arrays what the file lacks."""
        inputs, targets = found["train"]
        shares = [0.0 if name in found else getattr(self, name) for name in ("validation", "test")]
        if sum(shares) >= 1:
            raise TaskError(f"task: validation + test must be below 1, got {sum(shares):g}")
        if form == "classification" and targets.ndim == 1 and not targets.is_floating_point():
            places = stratified(targets, shares, self.split_seed)
        else:
            order = permutation(self.split_seed, len(targets))
            sizes = [round(share * len(targets)) for share in shares]
            places = [part.sort().values for part in order.split([*sizes, len(targets) - sum(sizes)])]
        drawn = dict(zip(("validation", "test", "train"), places, strict=True))
        own = {name: (inputs[place], targets[place]) for name, place in drawn.items()}
        return {name: found[name] if name != "train" and name in found else own[name] for name in _PARTS}


def _form_of(targets: Tensor) -> str:
    return "regression" if targets.is_floating_point() else "classification"


def _as_targets(targets: Tensor, form: str) -> Tensor:
    """Return targets as a form has them, whatever type they are stored in."""
    if form == "regression":
        return (targets[:, None] if targets.ndim == 1 else targets).double()
    if form == "multi-label":
        return targets.float()
    if form == "classification" and targets.is_floating_point() and bool((targets == targets.round()).all()):
        return targets.long()
    return targets.float() if targets.is_floating_point() else targets.long()


def _as_held(inputs: Tensor) -> Tensor:
    return inputs.float() if inputs.is_floating_point() else inputs


def _require_spread(inputs: Tensor, mean: tuple[float, ...], std: tuple[float, ...], file: Path) -> None:
    """Refuse floats that 32 bits cannot tell apart."""
    if not inputs.is_floating_point():
        return
    for channel, (own, spread) in enumerate(zip(mean, std, strict=True)):
        if abs(own) > _FARTHEST * spread:
            raise TaskError(
                f"{file}: values of channel {channel} must be told apart by 32-bit floats, but with a mean "
                f"of {own:g} and a deviation of {spread:g} they are not; subtract the mean first"
            )


_FARTHEST = 1e5
"""Deviations by which a channel may lie from 0: 32-bit floats have seven digits."""


def _read(file: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Return inputs and targets of each part that a file has.

    Raises:
        TaskError: It cannot be read, has no arrays of these names, or they do not fit each other.
    """
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise TaskError(
            f"{file} cannot be read as arrays: {error}. It must be an npz file, as numpy.savez writes"
        ) from error
    named = {"train": ("x", "y")} if "x" in arrays else {name: (f"x_{name}", f"y_{name}") for name in _PARTS}
    missing = [key for key in named["train"] if key not in arrays]
    if missing:
        there = ", ".join(sorted(arrays)) or "nothing"
        raise TaskError(f"{file} must hold `x` and `y`, or `x_train` and `y_train`, it holds {there}")
    halves = [f"{x} and {y}" for x, y in named.values() if (x in arrays) != (y in arrays)]
    if halves:
        raise TaskError(f"{file} must hold both of {halves[0]}, or none")
    found = {
        name: _as_tensors(arrays[x], arrays[y], f"{file}: {x} and {y}")
        for name, (x, y) in named.items()
        if x in arrays
    }
    shapes = {name: list(pair[0].shape[1:]) for name, pair in found.items()}
    if any(shape != shapes["train"] or not all(shape) or not shape for shape in shapes.values()):
        raise TaskError(f"{file}: all inputs must have one shape, of one axis at least, got {shapes}")
    return found


def _as_tensors(x: np.ndarray, y: np.ndarray, where: str) -> tuple[Tensor, Tensor]:
    if not x.ndim or not y.ndim or len(x) != len(y) or not len(x):
        counts = [len(array) if array.ndim else "no axis" for array in (y, x)]
        raise TaskError(f"{where} must have a target for each example, got {counts[0]} for {counts[1]}")
    if any(array.dtype.kind not in "biuf" for array in (x, y)):
        raise TaskError(f"{where} must be numbers, got {x.dtype} and {y.dtype}")
    if x.dtype == np.uint8 and x.ndim == 3:
        x = x[:, None]  # grey images, as Keras and many others keep them
    is_image = x.dtype == np.uint8 and x.ndim == 4
    if is_image and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        raise TaskError(
            f"{where}: images must be [image, channel, height, width], got {list(x.shape)}; turn them by "
            "`x.transpose(0, 3, 1, 2)`"
        )
    inputs = torch.from_numpy(x if is_image else x.astype(np.float64))
    targets = torch.from_numpy(y.astype(np.float64 if y.dtype.kind == "f" else np.int64))
    if not bool(inputs.isfinite().all()) or not bool(targets.isfinite().all()):
        raise TaskError(f"{where} must be finite; fill what is missing, or leave those examples out")
    return inputs, targets


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"arrays": Arrays}
