"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings of each; what few-shot learners are
measured on.

Characters are drawn at random for training, validation and test, 1,200 to 423 as in the literature, and every
rotation of a character is a class of its own; all rotations of one stay in one split.

Reference:
    Lake, Salakhutdinov & Tenenbaum, Human-level concept learning through probabilistic program induction,
    2015. doi:10.1126/science.aab3050
    Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, Matching networks for one shot learning, 2016,
    section 4.1.1 (sizes and rotations). arXiv:1606.04080
Differs:
    Which characters are tested is the draw of `split_seed`, as in MAML; Vinyals et al. published theirs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import ge, in_
from PIL import Image
from torch import Tensor

from learnforge import Task, TaskError, TaskInfo, TaskSource, hookimpl
from learnforge_kit import MemorySplit, measure_channels, open_dataset, permutation, resize_images

_PARTS = ("images_background", "images_evaluation")
_SIDE = 105
_LOADED = 512
"""Drawings that are shrunk at a time, since whole ones would take 360 MB."""


@frozen
class Omniglot(TaskSource):
    """Handwritten characters.

    Args:
        root: Folder with the folders `images_background` and `images_evaluation`, or with a folder
            `omniglot-py` that has them, as torchvision leaves it.
        download: Fetch it if it is missing; needs the network.
        size: Height and width in pixels, from 4; the drawings have 105.
        rotations: 1, 2 or 4: each character turned by multiples of 360°, 180° or 90°, every turn a class of
            its own.
        validation_characters: Characters that only the validation split shows, from 1.
        test_characters: Characters that only the test split shows, from 1.
        split_seed: Which characters they are, from 0.
    """

    root: Path
    download: bool = False
    size: int = field(default=28, validator=ge(4))
    rotations: int = field(default=4, validator=in_((1, 2, 4)))
    validation_characters: int = field(default=100, validator=ge(1))
    test_characters: int = field(default=423, validator=ge(1))
    split_seed: int = field(default=0, validator=ge(0))

    def load(self) -> Task:
        images, labels, names = self._read()
        held_out = self.validation_characters + self.test_characters
        if held_out >= len(names):
            raise TaskError(
                f"task: validation_characters + test_characters must be less than the {len(names)} "
                f"characters in {self.root}, got {held_out}"
            )
        order = permutation(self.split_seed, len(names))
        test, validation, train = order.split(
            [self.test_characters, self.validation_characters, len(names) - held_out]
        )
        own = torch.isin(labels, train)
        mean, std = measure_channels(images[own])
        turns = [f" at {turn * 360 // self.rotations}°" if turn else "" for turn in range(self.rotations)]
        info = TaskInfo(
            name="Omniglot",
            classes=tuple(name + turn for name in names for turn in turns),
            origins=tuple(f"Omniglot:{name}" for name in names for _ in turns),
            input_shape=(1, self.size, self.size),
            mean=mean,
            std=std,
        )
        parts = [self._turned(images, labels, characters) for characters in (train, validation, test)]
        return Task(info, parts[0], parts[1], parts[2])

    def _read(self) -> tuple[Tensor, Tensor, list[str]]:
        """Return images uint8 [image, 1, size, size], characters int64 [image], and their names."""
        folders = [folder for part in _PARTS for folder in sorted((self._folder() / part).glob("*/*/"))]
        files = [sorted(folder.glob("*.png")) for folder in folders]
        if not any(files):
            raise TaskError(
                f"task: {self._folder()} must have drawings, ALPHABET/CHARACTER/*.png, it has none; unpack "
                f"Omniglot's two zip files there"
            )
        labels = [label for label, own in enumerate(files) for _ in own]
        drawings = [file for own in files for file in own]
        images = [
            resize_images(torch.stack([_pixels(file) for file in drawings[i : i + _LOADED]]), self.size)
            for i in range(0, len(drawings), _LOADED)
        ]
        names = [f"{folder.parent.name} {folder.name}" for folder in folders]
        return torch.cat(images), torch.tensor(labels), names

    def _folder(self) -> Path:
        """Return the folder that has both parts."""
        if self.download:
            for is_background in (True, False):
                open_dataset("Omniglot", self.root, True, background=is_background)
        for folder in (self.root, self.root / "omniglot-py"):
            if all((folder / part).is_dir() for part in _PARTS):
                return folder
        raise TaskError(
            f"task: {self.root}, or a folder omniglot-py in it, must have the folders "
            f"{' and '.join(_PARTS)}; set `download = true`, or unpack Omniglot's two zip files there"
        )

    def _turned(self, images: Tensor, labels: Tensor, characters: Tensor) -> MemorySplit:
        """Turn the drawings of some characters by every angle; a label is (character, turn)."""
        own = torch.isin(labels, characters)
        quarter = 4 // self.rotations
        turned = [torch.rot90(images[own], quarter * turn, (2, 3)) for turn in range(self.rotations)]
        classes = [labels[own] * self.rotations + turn for turn in range(self.rotations)]
        return MemorySplit(torch.cat(turned).contiguous(), torch.cat(classes))


def _pixels(file: Path) -> Tensor:
    try:
        with Image.open(file, formats=("PNG",)) as image:
            if image.size != (_SIDE, _SIDE):
                raise TaskError(f"task: {file} must have {_SIDE} × {_SIDE} pixels, it has {image.size}")
            return torch.from_numpy(np.array(image.convert("L")))[None]
    except OSError as error:
        raise TaskError(f"task: {file} must be a drawing of Omniglot; {error}") from error


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"omniglot": Omniglot}
