"""Image folders: layouts, unusable files, conversion of every sort of image, and reading while training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from learnforge import Plugins, Split, Task, TaskError
from learnforge.options.structure import build
from learnforge_kit import StoredSplit, StreamSplit


@pytest.fixture
def load(plugins: Plugins, tmp_path: Path) -> Any:
    """Load the folder `data`."""

    def load_folder(**options: Any) -> Task:
        cls = plugins.load("task", "image-folder")
        return build(cls, {"root": str(tmp_path / "data"), **options}, "test").load()  # type: ignore[no-any-return]

    return load_folder


def _save(path: Path, value: int | tuple[int, ...], size: tuple[int, int] = (4, 4), mode: str = "L") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)  # type: ignore[arg-type]
    return path


def _fill(folder: Path, count: int, base: int = 0) -> None:
    """Write `count` grey images of each of two classes, every image of another shade."""
    for label, name in enumerate(("cat", "dog")):
        for i in range(count):
            _save(folder / name / f"{i}.png", base + 100 * label + i)


def _shades(split: Any) -> list[tuple[int, int]]:
    """Return (label, shade) of every image, sorted."""
    order = torch.arange(len(split))
    return sorted(
        (int(label), int(image[0, 0, 0]))
        for images, labels, _ in split.batches(order, 4)
        for image, label in zip(images, labels, strict=True)
    )


def pixels_of(split: Split) -> torch.Tensor:
    """Return all images of a split."""
    return next(iter(split.batches(torch.arange(len(split)), len(split))))[0]


@pytest.mark.parametrize("names", [("train", "val", "test"), ("training", "valid", "test")])
def test_folders_of_splits_are_taken_as_they_are(load: Any, tmp_path: Path, names: tuple[str, ...]) -> None:
    """With a folder for each split every image stays in its own."""
    for base, name in enumerate(names):
        _fill(tmp_path / "data" / name, 3, 10 * base)
    task = load()
    assert task.info.classes == ("cat", "dog")
    assert task.info.origins == ("data:cat", "data:dog")
    assert task.info.input_shape == (1, 4, 4)
    for base, split in enumerate((task.train, task.validation, task.test)):
        expected = [(label, 100 * label + 10 * base + i) for label in range(2) for i in range(3)]
        assert _shades(split) == expected


def test_single_tree_is_split(load: Any, tmp_path: Path) -> None:
    """One tree of classes is split by the given shares, class by class, each image in one split."""
    _fill(tmp_path / "data", 10)
    task = load(validation=0.3, test=0.2)
    parts = [_shades(split) for split in (task.train, task.validation, task.test)]
    assert [len(part) for part in parts] == [10, 6, 4]
    assert [sum(label for label, _ in part) for part in parts] == [5, 3, 2]
    assert sorted(pair for part in parts for pair in part) == [
        (label, 100 * label + i) for label in range(2) for i in range(10)
    ]


def test_missing_validation_folder_is_split_off_training(load: Any, tmp_path: Path) -> None:
    """Where only a test folder is given, validation images come from the training folder alone."""
    _fill(tmp_path / "data/train", 5)
    _fill(tmp_path / "data/test", 2, 50)
    task = load(validation=0.4)
    assert (len(task.train), len(task.validation), len(task.test)) == (6, 4, 4)
    assert all(shade % 100 < 50 for _, shade in _shades(task.train) + _shades(task.validation))


def test_test_folder_beside_classes_is_refused(load: Any, tmp_path: Path) -> None:
    """A test folder beside the classes, without a training folder, is not taken for a class."""
    _fill(tmp_path / "data", 3)
    _fill(tmp_path / "data/test", 3)
    with pytest.raises(TaskError, match=r"holds `test`, but no `train`"):
        load()


def test_class_may_be_called_test(load: Any, tmp_path: Path) -> None:
    """A class folder of images whose name is `test` is a class."""
    for i in range(6):
        _save(tmp_path / "data/control" / f"{i}.png", i)
        _save(tmp_path / "data/test" / f"{i}.png", i)
    assert load().info.classes == ("control", "test")


def test_unreadable_files_are_all_named(load: Any, tmp_path: Path) -> None:
    """Every file that cannot be read is named at once: no image, empty, and cut off in its pixels."""
    _fill(tmp_path / "data", 6)
    cat, dog = tmp_path / "data/cat", tmp_path / "data/dog"
    (cat / "0.png").write_text("no image")
    (cat / "1.png").write_bytes(b"")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(dog / "0.jpg")
    (dog / "0.jpg").write_bytes((dog / "0.jpg").read_bytes()[:-1500])
    Image.fromarray(noise).save(dog / "1.png")
    (dog / "1.png").write_bytes((dog / "1.png").read_bytes()[:-1500])
    with pytest.raises(TaskError, match=r"4 of 13 files in .*data cannot be read as images") as caught:
        load(size=4)
    for file in (cat / "0.png", cat / "1.png", dog / "0.jpg", dog / "1.png"):
        assert str(file) in str(caught.value)
    assert str(dog / "2.png") not in str(caught.value)


def test_many_unreadable_files_are_counted(load: Any, tmp_path: Path) -> None:
    """Beyond twenty, unreadable files are counted instead of named."""
    _fill(tmp_path / "data", 15)
    for file in (tmp_path / "data").rglob("*.png"):
        file.write_text("no image")
    with pytest.raises(TaskError, match=r"30 of 30 files (.|\n)*and 10 more"):
        load()


def test_one_class_is_refused(load: Any, tmp_path: Path) -> None:
    """A folder with a single class is refused, and the class named."""
    _save(tmp_path / "data/cat/0.png", 1)
    with pytest.raises(TaskError, match=r"each of at least two classes, it holds \['cat'\]"):
        load()


def test_missing_folder_is_refused(load: Any) -> None:
    """A root that is no folder is named."""
    with pytest.raises(TaskError, match=r"task.root: must be a folder of images, .*data is none"):
        load()


def test_split_without_images_is_refused(load: Any, tmp_path: Path) -> None:
    """A split's folder without any image is named."""
    _fill(tmp_path / "data/train", 5)
    (tmp_path / "data/val/cat").mkdir(parents=True)
    with pytest.raises(TaskError, match=r"val holds no image in its class folders cat, dog"):
        load()


def test_class_too_small_to_split_is_refused(load: Any, tmp_path: Path) -> None:
    """A class with too few images for three splits would leave none to train with, and is named."""
    _fill(tmp_path / "data", 5)
    for i in range(2):
        _save(tmp_path / "data/emu" / f"{i}.png", i)
    with pytest.raises(TaskError, match=r"holds too few of emu to split off validation and test images"):
        load()


def test_shares_must_leave_training_images(load: Any, tmp_path: Path) -> None:
    """Validation and test must leave something to train with."""
    _fill(tmp_path / "data", 5)
    with pytest.raises(TaskError, match=r"validation \+ test must be below 1, got 1\.1"):
        load(validation=0.6, test=0.5)


def test_extra_class_is_refused(load: Any, tmp_path: Path) -> None:
    """A class that only a test folder has is named."""
    _fill(tmp_path / "data/train", 5)
    _fill(tmp_path / "data/test", 2)
    _save(tmp_path / "data/test/bird/0.png", 1)
    with pytest.raises(TaskError, match=r"test holds classes that the training folder has not: bird"):
        load()


def test_other_sizes_need_a_size(load: Any, tmp_path: Path) -> None:
    """Where sizes differ, or images are not square, a size must be given; the sizes found are shown."""
    _fill(tmp_path / "data", 5)
    _save(tmp_path / "data/cat/wide.png", 1, (7, 4))
    with pytest.raises(
        TaskError, match=r"task.size: must be given, .* 2 sizes, such as \[\(4, 4\), \(7, 4\)\]"
    ):
        load()


@pytest.mark.parametrize(
    ("mode", "value", "grey", "colour"),
    [
        ("L", 90, [90], [90, 90, 90]),
        ("1", 1, [255], [255, 255, 255]),
        ("RGB", (200, 100, 50), [124], [200, 100, 50]),
        ("RGBA", (200, 100, 50, 255), [124], [200, 100, 50]),
        ("RGBA", (200, 100, 50, 0), [255], [255, 255, 255]),
        ("LA", (90, 255), [90], [90, 90, 90]),
        ("LA", (90, 0), [255], [255, 255, 255]),
        ("I;16", 257 * 90, [90], [90, 90, 90]),
        ("I;16", 200, [1], [1, 1, 1]),
    ],
)
def test_every_mode_becomes_bytes(
    load: Any, tmp_path: Path, mode: str, value: Any, grey: list[int], colour: list[int]
) -> None:
    """Grey, bilevel, colour, transparent (on white) and 16-bit images get the expected bytes, in grey and in
    colour.
    """
    for name in ("cat", "dog"):
        for i in range(5):
            _save(tmp_path / "data" / name / f"{i}.png", value, mode=mode)
    for channels, expected in ((1, grey), (3, colour)):
        images = pixels_of(load(channels=channels).train)
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (channels, 4, 4)
        assert images.permute(0, 2, 3, 1).unique(dim=0)[0, 0, 0].tolist() == expected
        assert images.flatten(2).unique(dim=2).shape[2] == 1


def test_palette_images_show_their_colours(load: Any, tmp_path: Path) -> None:
    """A palette image is converted by its palette, and a transparent palette entry lies on white."""
    for name in ("cat", "dog"):
        for i in range(5):
            image = Image.new("P", (4, 4), 0)
            image.putpalette([200, 100, 50, 10, 20, 30])
            image.putpixel((0, 0), 1)
            path = tmp_path / "data" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, transparency=1)
    images = pixels_of(load().train)
    assert images[0, :, 1, 1].tolist() == [200, 100, 50]
    assert images[0, :, 0, 0].tolist() == [255, 255, 255]


def test_channels_follow_the_images(load: Any, tmp_path: Path) -> None:
    """Images are grey if all of them are, and one colour image makes all of them colour."""
    _fill(tmp_path / "data", 5)
    assert load().info.input_shape == (1, 4, 4)
    _save(tmp_path / "data/cat/red.png", (255, 0, 0), mode="RGB")
    assert load().info.input_shape == (3, 4, 4)


def test_middle_is_cut_out(load: Any, tmp_path: Path) -> None:
    """The shorter side is resized to `size` and the middle of the longer one kept."""
    stripes = np.repeat(np.array([[10, 20, 200, 210, 90, 95]], dtype=np.uint8), 2, axis=0)
    for name in ("cat", "dog"):
        for i in range(5):
            path = tmp_path / "data" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(stripes).save(path)
    assert pixels_of(load(size=2).train)[0, 0].tolist() == [[200, 210], [200, 210]]


@pytest.mark.parametrize("size", [(5, 9), (9, 5), (3, 100), (7, 7)])
def test_odd_sizes_become_square(load: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    """Images of any shape come out as `size` × `size`, a plain shade unchanged."""
    for name in ("cat", "dog"):
        for i in range(5):
            _save(tmp_path / "data" / name / f"{i}.png", 77, size)
    images = pixels_of(load(size=6).train)
    assert images.shape[1:] == (1, 6, 6)
    assert images.unique().tolist() == [77]


@pytest.mark.parametrize("workers", [0, 1])
def test_streamed_equals_held(load: Any, tmp_path: Path, workers: int) -> None:
    """Images read as they are needed are, batch for batch, those held in memory; so are mean and
    deviation.
    """
    _fill(tmp_path / "data", 6)
    held, streamed = load(), load(memory_mib=0, workers=workers)
    assert isinstance(held.train, StoredSplit)
    assert isinstance(streamed.train, StreamSplit)
    assert (streamed.info, streamed.content) == (held.info, held.content)
    splits = [(held.train, streamed.train)]
    splits += [] if workers else [(held.validation, streamed.validation), (held.test, streamed.test)]
    for mine, theirs in splits:
        order = torch.arange(len(mine)).flip(0)
        for a, b in zip(mine.batches(order, 3), theirs.batches(order, 3), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("memory_mib", [16, 0])
def test_edited_image_changes_content(load: Any, tmp_path: Path, memory_mib: int) -> None:
    """Editing one image changes what a fingerprint says of the task."""
    _fill(tmp_path / "data", 5)
    file = _save(tmp_path / "data/cat/plain.bmp", 7)
    before, size = load(memory_mib=memory_mib).content, file.stat().st_size
    assert load(memory_mib=memory_mib).content == before
    _save(file, 99)
    assert file.stat().st_size == size
    assert load(memory_mib=memory_mib).content != before


def test_hidden_and_other_files_are_ignored(load: Any, tmp_path: Path) -> None:
    """Hidden folders, and files that are no images by their ending, count for nothing; endings may be upper
    case.
    """
    _fill(tmp_path / "data", 5)
    (tmp_path / "data/.cache").mkdir()
    (tmp_path / "data/cat/notes.txt").write_text("no image")
    Image.new("L", (4, 4), 66).save(tmp_path / "data/cat/upper.PNG")
    task = load()
    assert task.info.classes == ("cat", "dog")
    assert len(task.train) + len(task.validation) + len(task.test) == 11


def _fill_classes(folder: Path, *names: str) -> None:
    """Write ten grey images of each class, 50 shades apart."""
    for place, name in enumerate(names):
        for i in range(10):
            _save(folder / name / f"{i}.png", 50 * place + i)


def test_classes_are_chosen_by_name(load: Any, tmp_path: Path) -> None:
    """Folders that are not chosen are left alone; unknown ones get the nearest name."""
    _fill_classes(tmp_path / "data", "ant", "bee", "cat")
    task = load(classes=["cat", "ant"])
    assert task.info.classes == ("ant", "cat")
    assert sorted({shade // 50 for _, shade in _shades(task.train)}) == [0, 2]
    with pytest.raises(TaskError, match=r"task\.classes: .* holds no folder 'ban'; did you mean"):
        load(classes=["ban", "ant"])


def test_test_classes_are_shown_by_the_test_split_alone(load: Any, tmp_path: Path) -> None:
    """All of their images, as classes of their own behind the others; training loses none to a test split."""
    _fill_classes(tmp_path / "data", "ant", "bee", "cat")
    task = load(test_classes=["ant"])
    assert task.info.classes == ("bee", "cat", "ant")
    assert task.test.labels.tolist() == [2] * 10
    assert sorted(task.train.labels.unique().tolist()) == [0, 1]
    assert len(task.train) + len(task.validation) == 20
    assert not set(task.origins_of(task.train)) & set(task.origins_of(task.test))
    with pytest.raises(TaskError, match=r"task\.test_classes: must not be among the classes, ant are"):
        load(classes=["ant", "bee"], test_classes=["ant"])


def test_few_labels_are_kept(load: Any, tmp_path: Path) -> None:
    """So many training images of each class, the same for the same seed."""
    _fill_classes(tmp_path / "data", "ant", "bee")
    task = load(labels_per_class=2)
    assert task.train.labels.bincount().tolist() == [2, 2]
    assert task.train.content == load(labels_per_class=2).train.content
    assert len(task.validation) == len(load().validation)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_while_it_is_read_is_named(load: Any, tmp_path: Path, workers: int) -> None:
    """Without the traceback of the process that reads it."""
    _fill(tmp_path / "data", 6)
    task = load(memory_mib=0, workers=workers)
    gone = task.train.files[2]
    gone.unlink()
    with pytest.raises(TaskError) as caught:
        list(task.train.batches(torch.arange(len(task.train)), 4))
    assert str(caught.value).startswith(f"{gone} cannot be read as an image: ")
    assert str(caught.value).endswith("It could be read when the run began; put it back, and go on")


@pytest.mark.parametrize("memory_mib", [16, 0])
def test_names_of_files_may_be_any_bytes(load: Any, tmp_path: Path, memory_mib: int) -> None:
    """As an archive of another system leaves them."""
    _fill(tmp_path / "data", 5)
    try:
        (tmp_path / "data/cat/0.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/data/cat/\xff.png"))
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    assert len(load(memory_mib=memory_mib).content) == 64


def test_a_pipe_among_the_images_is_named(load: Any, tmp_path: Path) -> None:
    """It is refused with its name, as what cannot be decoded is."""
    _fill(tmp_path / "data", 5)
    os.mkfifo(tmp_path / "data/cat/pipe.png")
    with pytest.raises(
        TaskError, match=r"1 of 11 files .*\n.*pipe.png cannot be read as an image: it is no regular file"
    ):
        load()


def test_the_home_folder_may_be_written_short(load: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """`~` in a path is the home folder, as in a shell."""
    _fill(tmp_path / "data", 5)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load(root="~/data").info.name == "data"


def test_images_without_labels_come_beside_the_others(load: Any, tmp_path: Path) -> None:
    """From a folder of their own, at any depth, with the label -1, held or read as the others are."""
    _fill(tmp_path / "data", 10)
    for number in range(3):
        _save(tmp_path / "more" / "deep" / f"{number}.png", 200 + number)
    for memory in (2048, 0):
        task = load(unlabelled=str(tmp_path / "more"), memory_mib=memory, workers=0)
        assert task.unlabelled is not None
        assert _shades(task.unlabelled) == [(-1, 200), (-1, 201), (-1, 202)]
        assert task.load(torch.device("cpu")).splits.keys() == {"train", "validation", "test", "unlabelled"}
        assert task.content != load(memory_mib=memory, workers=0).content
    with pytest.raises(TaskError, match=r"task.unlabelled: must be a folder with images in it"):
        load(unlabelled=str(tmp_path / "none"))
