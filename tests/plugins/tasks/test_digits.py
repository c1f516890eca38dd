"""The digits task: its splits, classes, rotations, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from learnforge import Plugins, RecipeError, Task
from learnforge.options.structure import build
from learnforge_kit import MemorySplit


@pytest.fixture(scope="module")
def digits(plugins: Plugins) -> Any:
    """Make a digits task from options."""

    def make(**options: Any) -> Task:
        source = build(plugins.load("task", "digits"), options, "test")
        return source.load()  # type: ignore[no-any-return]

    return make


def _count(split: Any, classes: int) -> list[int]:
    return torch.bincount(split.labels, minlength=classes).tolist()


def _keys(split: Any) -> list[tuple[int, bytes]]:
    return [
        (int(label), image.numpy().tobytes()) for image, label in zip(split.images, split.labels, strict=True)
    ]


def test_splits_hold_every_image_once(digits: Any) -> None:
    """The three splits together are scikit-learn's 1,797 images, each of them in one split."""
    from sklearn.datasets import load_digits

    task = digits()
    found = [key for split in (task.train, task.validation, task.test) for key in _keys(split)]
    data = load_digits()
    bytes_of = (data.images * (255 / 16)).round().astype("uint8")
    whole = [(int(label), image.tobytes()) for image, label in zip(bytes_of, data.target, strict=True)]
    assert sorted(found) == sorted(whole)
    assert len(found) == 1797


def test_splits_are_stratified(digits: Any) -> None:
    """Every class is split 60 : 20 : 20, up to rounding."""
    task = digits()
    parts = torch.tensor([_count(split, 10) for split in (task.train, task.validation, task.test)])
    shares = parts / parts.sum(0)
    assert (shares - torch.tensor([[0.6], [0.2], [0.2]])).abs().max() < 0.005


def test_split_seed_chooses_the_split(digits: Any) -> None:
    """Equal seeds give equal content, another seed gives another split of equal sizes."""
    first, again, other = digits(), digits(), digits(split_seed=1)
    assert first.content == again.content
    assert first.content != other.content
    assert _count(first.train, 10) == _count(other.train, 10)


def test_pixels_are_bytes_of_one_channel(digits: Any) -> None:
    """The 16 grey levels of the data become bytes up to 255, and mean and deviation are those of the training
    split.
    """
    task = digits()
    pixels = task.train.images
    assert pixels.shape[1:] == (1, 8, 8)
    assert pixels.dtype == torch.uint8
    assert (int(pixels.min()), int(pixels.max())) == (0, 255)
    assert task.info.mean[0] == pytest.approx(float(pixels.double().mean() / 255))
    assert task.info.std[0] == pytest.approx(float(pixels.double().std(unbiased=False) / 255))


def test_classes_are_kept_in_their_order(digits: Any) -> None:
    """A label is the place of its digit in `classes`, and the split of a digit does not depend on the
    others.
    """
    task, whole = digits(classes=[7, 2]), digits()
    assert task.info.classes == ("7", "2")
    assert task.info.origins == ("digits:7", "digits:2")
    sevens = task.train.images[task.train.labels == 0]
    assert torch.equal(sevens, whole.train.images[whole.train.labels == 7])


def test_labels_per_class_counts_training_images_alone(digits: Any) -> None:
    """So many images of each class are left to train with; validation and test stay whole."""
    task, whole = digits(labels_per_class=3), digits()
    assert _count(task.train, 10) == [3] * 10
    assert task.validation.content == whole.validation.content
    assert task.test.content == whole.test.content
    assert set(_keys(task.train)) <= set(_keys(whole.train))


def _turn(images: Tensor, quarters: int) -> Tensor:
    return torch.rot90(images, quarters, (2, 3))


@pytest.mark.parametrize(("rotations", "quarter"), [(2, 2), (4, 1)])
def test_rotations_are_classes_of_their_own(digits: Any, rotations: int, quarter: int) -> None:
    """Class (digit, turn) holds exactly the digit's images turned so often, in the same split."""
    task, upright = digits(classes=[4, 1], rotations=rotations), digits(classes=[4, 1])
    assert task.info.outputs == 2 * rotations
    for split, plain in ((task.train, upright.train), (task.test, upright.test)):
        assert isinstance(split, MemorySplit)
        for digit in range(2):
            own = plain.images[plain.labels == digit]
            for turn in range(rotations):
                found = split.images[split.labels == digit * rotations + turn]
                assert torch.equal(found, _turn(own, quarter * turn)), (digit, turn)


def test_rotations_share_an_origin(digits: Any) -> None:
    """Every turn of a digit comes from one original label, so no split of labels tears them apart."""
    task = digits(classes=[4, 1], rotations=4)
    assert task.info.classes[:4] == ("4 at 0°", "4 at 90°", "4 at 180°", "4 at 270°")
    assert task.info.origins == ("digits:4",) * 4 + ("digits:1",) * 4


def test_test_classes_are_shown_by_the_test_split_alone(digits: Any) -> None:
    """Test classes bring all their images to the test split and none to the others."""
    task = digits(test_classes=[4, 7])
    assert task.origins_of(task.test) == ["digits:4", "digits:7"]
    for split in (task.train, task.validation):
        assert task.origins_of(split) == [f"digits:{d}" for d in range(10) if d not in (4, 7)]
    assert len(task.test) == 181 + 179
    assert [task.info.classes[label] for label in task.test.labels.unique().tolist()] == ["4", "7"]


def test_validation_classes_are_shown_by_the_validation_split_alone(digits: Any) -> None:
    """With other classes in each split no split sees another's."""
    task = digits(classes=[0, 1], validation_classes=[2], test_classes=[3, 4])
    shown = [task.origins_of(split) for split in (task.train, task.validation, task.test)]
    assert shown == [["digits:0", "digits:1"], ["digits:2"], ["digits:3", "digits:4"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": [1, 10]}, r"classes: .*must be in"),
        ({"classes": [1, 1]}, r"'classes' must not repeat a digit, got \[1, 1\]"),
        ({"classes": []}, r"classes must hold at least one digit"),
        ({"classes": [1, 4], "test_classes": [4]}, r"must not share digits, \[4\] are shared"),
        ({"validation_classes": [4], "test_classes": [4]}, r"must not share digits, \[4\] are shared"),
        ({"rotations": 3}, r"rotations: .*must be in \(1, 2, 4\)"),
        ({"labels_per_class": 0}, r"labels_per_class: .*must be >= 1"),
        ({"split_seed": -1}, r"split_seed: .*must be >= 0"),
        ({"rotation": 2}, r"rotation: unknown option; did you mean 'rotations'\?"),
    ],
)
def test_wrong_options_are_refused(digits: Any, options: dict[str, Any], message: str) -> None:
    """A wrong option is refused with its name and what must hold, before any data are read."""
    with pytest.raises(RecipeError, match=message):
        digits(**options)


def test_what_labels_leave_out_may_be_shown_without_them(plugins: Plugins) -> None:
    """All training images are there, with or without their labels, and none twice."""
    cls = plugins.load("task", "digits")
    whole, few = cls().load(), cls(labels_per_class=3, unlabelled=True).load()
    assert few.unlabelled is not None
    assert len(few.train) + len(few.unlabelled) == len(whole.train)
    assert set(few.unlabelled.labels.tolist()) == {-1}
    parts = [split.images.flatten(1).tolist() for split in (few.train, few.unlabelled)]
    assert sorted(parts[0] + parts[1]) == sorted(whole.train.images.flatten(1).tolist())
    assert cls(labels_per_class=3).load().unlabelled is None
    assert cls(unlabelled=True).load().unlabelled is None
