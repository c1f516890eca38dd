"""Omniglot, read from small drawings in its own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from learnforge import Plugins, RecipeError, Task, TaskError
from learnforge.options.structure import build

CHARACTERS = {
    "images_background": [("Latin", 3), ("Greek", 2)],
    "images_evaluation": [("Runic", 2)],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write seven characters of two drawings each: the character's number as the place of a thin stroke."""
    number = 0
    for part, alphabets in CHARACTERS.items():
        for alphabet, count in alphabets:
            for character in range(count):
                folder = tmp_path / "omniglot-py" / part / alphabet / f"character{character + 1:02}"
                folder.mkdir(parents=True)
                for drawing in range(2):
                    pixels = np.full((105, 105), 255, dtype=np.uint8)
                    pixels[10 + 10 * number, : 60 + 20 * drawing] = 0
                    Image.fromarray(pixels).convert("1").save(folder / f"{number:04}_{drawing + 1:02}.png")
                number += 1
    return tmp_path


@pytest.fixture
def load(plugins: Plugins, root: Path) -> Any:
    """Load the data set from the test's folder."""

    def load_task(**options: Any) -> Task:
        cls = plugins.load("task", "omniglot")
        given = {"root": str(root), "validation_characters": 1, "test_characters": 2, **options}
        return build(cls, given, "test").load()  # type: ignore[no-any-return]

    return load_task


def test_characters_are_split_and_none_is_in_two_splits(load: Any) -> None:
    """Of seven characters one validates, two test, and four are trained on, each with all of its drawings."""
    task = load(rotations=1)
    shown = [set(part.labels.tolist()) for part in (task.train, task.validation, task.test)]
    assert [len(part) for part in shown] == [4, 1, 2]
    assert set.union(*shown) == set(range(7))
    assert [len(part) for part in (task.train, task.validation, task.test)] == [8, 2, 4]
    assert task.info.classes[0] == "Greek character01"
    assert task.info.origins[5] == "Omniglot:Runic character01"


def test_other_seeds_draw_other_characters(load: Any) -> None:
    """The split is a function of its seed."""
    tested = [
        tuple(sorted(set(load(rotations=1, split_seed=seed).test.labels.tolist()))) for seed in range(8)
    ]
    assert len(set(tested)) > 1
    assert tested[0] == tuple(sorted(set(load(rotations=1).test.labels.tolist())))


def test_drawings_are_shrunk_and_labelled_by_their_character(load: Any) -> None:
    """The stroke of each drawing lies where its character has it, and is grey: averaged, not dropped."""
    task = load(rotations=1)
    assert task.info.input_shape == (1, 28, 28)
    order = [3, 4, 0, 1, 2, 5, 6]  # by folder: Greek before Latin before Runic
    for part in (task.train, task.validation, task.test):
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            row = int(image[0].float().mean(1).argmin())
            assert row == (10 + 10 * order[label]) * 28 // 105
            assert int(image[0, row, 2]) < 210


def test_every_turn_is_a_class_and_stays_in_its_split(load: Any) -> None:
    """Four turns make four classes of a character, in the same split, and they are quarter turns."""
    task = load()
    assert len(task.info.classes) == 28
    assert task.info.classes[:3] == (
        "Greek character01",
        "Greek character01 at 90°",
        "Greek character01 at 180°",
    )
    own = [set(task.origins_of(part)) for part in (task.train, task.validation, task.test)]
    assert [len(part) for part in own] == [4, 1, 2]
    assert not own[0] & own[1]
    assert not (own[0] | own[1]) & own[2]
    label = int(task.test.labels.min())
    upright, turned = (task.test.images[task.test.labels == label + turn] for turn in (0, 1))
    assert torch.equal(turned, torch.rot90(upright, 1, (2, 3)))


def test_both_layouts_are_found(load: Any, root: Path) -> None:
    """The two folders may lie in the root itself, as the zip files are unpacked."""
    assert len(load(root=str(root / "omniglot-py")).train) == len(load().train)


def test_missing_data_say_where_and_what_to_do(load: Any, tmp_path: Path) -> None:
    """Without the folders the error names them, and what to do."""
    with pytest.raises(
        TaskError, match=r"/none, .* must have the folders images_background and images_evaluation; set `down"
    ):
        load(root=str(tmp_path / "none"))


def test_a_download_that_fails_says_so(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that fails points to the network."""

    def fail(**options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.Omniglot", fail)
    with pytest.raises(TaskError, match=r"check the network\. torchvision says: no route to host"):
        load(download=True)


def test_damaged_drawings_are_named(load: Any, root: Path) -> None:
    """A file that is no image is an error with its name."""
    file = root / "omniglot-py/images_evaluation/Runic/character01/0005_01.png"
    file.write_bytes(b"no image")
    with pytest.raises(TaskError, match=r"0005_01.png must be a drawing of Omniglot"):
        load()


def test_empty_folders_and_other_sizes_are_refused(load: Any, root: Path) -> None:
    """A drawing of another size is named; so is a folder without any."""
    file = root / "omniglot-py/images_evaluation/Runic/character01/0005_01.png"
    Image.new("1", (9, 105)).save(file)
    with pytest.raises(TaskError, match=r"0005_01.png must have 105 × 105 pixels, it has \(9, 105\)"):
        load()
    empty = root / "empty"
    for part in CHARACTERS:
        (empty / part).mkdir(parents=True)
    with pytest.raises(TaskError, match=r"empty must have drawings, ALPHABET/CHARACTER/\*.png, it has none"):
        load(root=str(empty))


def test_too_few_characters_are_refused(load: Any) -> None:
    """Something must be left to train on."""
    with pytest.raises(TaskError, match=r"must be less than the 7 characters in .*, got 7"):
        load(test_characters=6)


def test_wrong_options_are_refused(load: Any) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=r"rotations: 'rotations' must be in \(1, 2, 4\) \(got 3\)"):
        load(rotations=3)
