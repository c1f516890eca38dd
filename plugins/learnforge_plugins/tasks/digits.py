"""Handwritten digits, 8 × 8 grey pixels, 1,797 images of 43 people, as scikit-learn brings them: real
and offline.

Every class is split 60 : 20 : 20 into training, validation and test images, the same for every choice
of classes.

Reference:
    Alpaydin & Kaynak, Optical recognition of handwritten digits, UCI Machine Learning Repository, 1998.
    doi:10.24432/C50P49
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import deep_iterable, ge, in_, optional
from torch import Tensor

from learnforge import Task, TaskInfo, TaskSource, hookimpl
from learnforge_kit import MemorySplit, measure_channels, stratified

_DIGITS = tuple(range(10))


def _differ(instance: object, attribute: Any, value: tuple[int, ...]) -> None:
    if len(set(value)) < len(value):
        raise ValueError(f"{attribute.name!r} must not repeat a digit, got {list(value)}")


_DIGITS_ONLY: Any = optional([deep_iterable(in_(_DIGITS)), _differ])


@frozen
class Digits(TaskSource):
    """Handwritten digits.

    Args:
        classes: Digits to learn, 0 to 9; all but the test classes by default.
        labels_per_class: Training images to keep of each class; all by default. A class is a digit in
            one rotation.
        unlabelled: Hand out the training images that `labels_per_class` leaves out, without their labels.
        rotations: 1, 2 or 4: each digit turned by multiples of 360°, 180° or 90°, every turn a class of
            its own.
        validation_classes: Digits that only the validation split shows; by default it shows `classes`.
        test_classes: Digits that only the test split shows, all of their images; by default it
            shows `classes`.
        split_seed: Which random split into training, validation and test images, from 0.
    """

    classes: tuple[int, ...] | None = field(default=None, validator=_DIGITS_ONLY)
    labels_per_class: int | None = field(default=None, validator=optional(ge(1)))
    unlabelled: bool = False
    rotations: int = field(default=1, validator=in_((1, 2, 4)))
    validation_classes: tuple[int, ...] | None = field(default=None, validator=_DIGITS_ONLY)
    test_classes: tuple[int, ...] | None = field(default=None, validator=_DIGITS_ONLY)
    split_seed: int = field(default=0, validator=ge(0))

    def __attrs_post_init__(self) -> None:
        groups = (self._train_classes, self.validation_classes or (), self.test_classes or ())
        for i, group in enumerate(groups):
            shared = set(group).intersection(*[set().union(*groups[:i], *groups[i + 1 :])])
            if shared:
                raise ValueError(
                    f"classes, validation_classes and test_classes must not share digits, {sorted(shared)} "
                    "are shared"
                )
        if not self._train_classes:
            raise ValueError("classes must hold at least one digit")

    @property
    def _train_classes(self) -> tuple[int, ...]:
        held_out = {*(self.validation_classes or ()), *(self.test_classes or ())}
        return self.classes if self.classes is not None else tuple(d for d in _DIGITS if d not in held_out)

    def load(self) -> Task:
        images, labels = _read()
        train, validation, test = stratified(labels, (0.6, 0.2), self.split_seed)
        everything = torch.arange(len(labels))
        own = self._train_classes
        whole = train = _of(train, labels, own)
        if self.labels_per_class:
            train = _first(train, labels, self.labels_per_class, self.split_seed)
        rest = whole[~torch.isin(whole, train)]
        validation = (
            _of(everything, labels, self.validation_classes)
            if self.validation_classes
            else _of(validation, labels, own)
        )
        test = _of(everything, labels, self.test_classes) if self.test_classes else _of(test, labels, own)
        shown = (*own, *(self.validation_classes or ()), *(self.test_classes or ()))
        mean, std = measure_channels(images[train])
        info = TaskInfo(
            name="digits " + "".join(map(str, own)),
            classes=tuple(_name(d, t, self.rotations) for d in shown for t in range(self.rotations)),
            origins=tuple(f"digits:{d}" for d in shown for _ in range(self.rotations)),
            input_shape=(1, 8, 8),
            mean=mean,
            std=std,
        )
        turned = [self._turned(images[part], labels[part], shown) for part in (train, validation, test, rest)]
        unlabelled = MemorySplit(turned[3].images, torch.full((len(turned[3]),), -1))
        is_shown = self.unlabelled and len(unlabelled) > 0
        return Task(info, turned[0], turned[1], turned[2], unlabelled=unlabelled if is_shown else None)

    def _turned(self, images: Tensor, labels: Tensor, shown: tuple[int, ...]) -> MemorySplit:
        """Turn every image by every angle; a label is (place of the digit, number of the turn)."""
        places = torch.zeros(10, dtype=torch.int64)
        places[list(shown)] = torch.arange(len(shown))
        quarter = 4 // self.rotations
        turned = [torch.rot90(images, quarter * turn, (2, 3)) for turn in range(self.rotations)]
        classes = [places[labels] * self.rotations + turn for turn in range(self.rotations)]
        return MemorySplit(torch.cat(turned).contiguous(), torch.cat(classes))


@cache  # a recipe's stages read it again with other options
def _read() -> tuple[Tensor, Tensor]:
    """Read the file that `sklearn.datasets.load_digits` reads, without its import, which takes seconds."""
    place = find_spec("sklearn")
    assert place is not None
    assert place.submodule_search_locations is not None
    file = Path(place.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    rows = torch.from_numpy(np.loadtxt(file, delimiter=","))  # 64 pixels of 0 to 16, then the digit
    images = rows[:, :-1].view(-1, 1, 8, 8) * (255 / 16)
    return images.round().to(torch.uint8), rows[:, -1].long()


def _of(positions: Tensor, labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    return positions[torch.isin(labels[positions], torch.tensor(classes))]


def _first(positions: Tensor, labels: Tensor, count: int, seed: int) -> Tensor:
    """Keep `count` random images of each class."""
    shuffled = positions[torch.randperm(len(positions), generator=torch.Generator().manual_seed(seed))]
    kept = [shuffled[labels[shuffled] == label][:count] for label in labels[positions].unique().tolist()]
    return torch.cat(kept).sort().values


def _name(digit: int, turn: int, rotations: int) -> str:
    return str(digit) if rotations == 1 else f"{digit} at {turn * 360 // rotations}°"


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"digits": Digits}
