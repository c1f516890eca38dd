"""Arrays out of npz files: their shapes and types, parts that are there, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learnforge import Plugins, Task, TaskError
from learnforge.options.structure import build
from learnforge_plugins.tasks.arrays import Arrays
from learnforge_testing import TaskSuite

RNG = np.random.default_rng(0)


@pytest.fixture
def load(plugins: Plugins, tmp_path: Path) -> Any:
    """Load arrays from a file."""

    def load_arrays(arrays: dict[str, Any], **options: Any) -> Task:
        np.savez(tmp_path / "own.npz", **arrays)
        cls = plugins.load("task", "arrays")
        return build(cls, {"file": str(tmp_path / "own.npz"), **options}, "test").load()  # type: ignore[no-any-return]

    return load_arrays


def test_it_keeps_the_duties_of_tasks(tmp_path: Path) -> None:
    """Series with classes, and images with numbers, pass the suite."""
    classes = np.arange(60) % 3
    np.savez(tmp_path / "series.npz", x=RNG.normal(size=(60, 2, 20)), y=classes)
    images = RNG.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=RNG.normal(size=60))
    for name in ("series", "images"):
        suite = TaskSuite.of(Arrays, {"file": str(tmp_path / f"{name}.npz")})
        assert [outcome for outcome in suite.run() if outcome.state == "failed"] == []


def test_series_are_floats_and_classes_numbers(load: Any) -> None:
    """The first axis of an example is its channel, and each has a mean and a deviation."""
    x = RNG.normal([[[3.0], [100.0]]], [[[1.0], [10.0]]], (60, 2, 20))
    task = load({"x": x, "y": np.arange(60) % 3}, classes=["walk", "run", "sit"])
    assert (task.info.input_shape, task.info.inputs, task.info.form) == ((2, 20), "floats", "classification")
    assert task.info.classes == ("walk", "run", "sit")
    assert [len(split) for split in (task.train, task.validation, task.test)] == [36, 12, 12]
    train = torch.cat([images for images, _, _ in task.train.batches(torch.arange(36), 9)])
    assert task.info.mean == pytest.approx(train.double().mean((0, 2)).tolist())
    assert task.info.std == pytest.approx(train.double().std((0, 2), correction=0).tolist())


def test_numbers_are_standardised_by_the_training_targets(load: Any) -> None:
    """Splits hold (y - mean) / deviation, and the task says both."""
    y = RNG.normal(50, 5, 60)
    task = load({"x": RNG.normal(size=(60, 4)), "y": y})
    assert (task.info.form, task.info.classes) == ("regression", ("0",))
    assert float(task.train.labels.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(task.train.labels.std(correction=0)) == pytest.approx(1.0, abs=1e-5)
    back = torch.cat([s.labels[:, 0] for s in (task.train, task.validation, task.test)])
    units = back * task.info.target_std[0] + task.info.target_mean[0]
    np.testing.assert_allclose(np.sort(units), np.sort(y), rtol=1e-5)


def test_parts_that_are_there_stay(load: Any) -> None:
    """A test of the file's own is not mixed with the others; what is missing is split off."""
    x, y = np.zeros((40, 3), np.float32), np.arange(40) % 2
    arrays = {"x_train": x, "y_train": y, "x_test": x[:10] + 1, "y_test": y[:10]}
    task = load(arrays)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [32, 8, 10]
    assert float(task.test.images.min()) == 1.0
    assert float(task.train.images.max()) == 0.0


def test_bytes_of_four_axes_are_images(load: Any) -> None:
    """They stay bytes, with means in [0, 1]; bytes of another number of axes become floats."""
    images = RNG.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    info = load({"x": images, "y": np.arange(20) % 2}).info
    assert info.inputs == "bytes"
    assert all(0 < mean < 1 for mean in info.mean)
    grey = load({"x": images[:, 0], "y": np.arange(20) % 2}).info
    assert (grey.inputs, grey.input_shape) == ("bytes", (1, 4, 4))
    assert load({"x": images[:, 0, 0], "y": np.arange(20) % 2}).info.inputs == "floats"
    with pytest.raises(TaskError, match=r"turn them by `x\.transpose"):
        load({"x": np.zeros((20, 28, 28, 3), np.uint8), "y": np.arange(20) % 2})


def test_targets_are_what_the_form_has(load: Any) -> None:
    """Whole numbers may be targets of a regression or several labels, and classes be stored as floats."""
    x = RNG.normal(size=(30, 4))
    numbers = load({"x": x, "y": np.arange(30) * 7}, form="regression")
    assert (numbers.info.classes, numbers.train.labels.dtype) == (("0",), torch.float32)
    assert numbers.info.target_mean[0] == pytest.approx(100, abs=40)
    several = load({"x": x, "y": RNG.integers(0, 2, (30, 3)).astype(bool)}, form="multi-label")
    assert several.info.classes == ("0", "1", "2")
    assert several.train.labels.dtype == torch.float32
    classes = load({"x": x, "y": (np.arange(30) % 3).astype(float)}, form="classification")
    assert classes.info.classes == ("0", "1", "2")
    large = load({"x": x, "y": 1.7e9 + np.arange(30.0)})
    assert len(torch.cat([s.labels for s in large.splits.values()]).unique()) == 30


@pytest.mark.parametrize(
    ("arrays", "options", "words"),
    [
        ({"a": np.zeros(3)}, {}, r"must hold `x` and `y`, or `x_train` and `y_train`, it holds a"),
        ({"x": np.zeros((3, 2)), "y": np.zeros(2)}, {}, "a target for each example, got 2 for 3"),
        ({"x": np.full((3, 2), np.nan), "y": np.zeros(3)}, {}, "must be finite"),
        ({"x": np.zeros((3, 2)), "y": np.float64(1)}, {}, "a target for each example, got no axis"),
        ({"x": np.zeros((3, 0)), "y": np.arange(3)}, {}, "must have one shape"),
        ({"x": np.zeros((9, 2)), "y": np.arange(9) % 2 + 100}, {}, r"without gaps, got \[100, 101\]"),
        ({"x": 1e9 + np.arange(18.0).reshape(9, 2), "y": np.arange(9) % 2}, {}, "subtract the mean first"),
        (
            {"x_train": np.zeros((6, 2)), "y_train": np.arange(6) % 2, "x_test": np.zeros((2, 2))},
            {},
            "must hold both of x_test and y_test",
        ),
        ({"x": np.array([["a"], ["b"]]), "y": np.zeros(2)}, {}, "must be numbers, got <U1"),
        ({"x": np.zeros((6, 2)), "y": np.arange(6)}, {"classes": ["a"]}, "must name 6 classes"),
        ({"x": np.zeros(6), "y": np.arange(6)}, {}, "must have one shape, of one axis at least"),
        (
            {"x_train": np.zeros((6, 2)), "y_train": np.arange(6), "x_test": np.zeros((1, 3)), "y_test": [0]},
            {},
            "must have one shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    load: Any, arrays: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    """In words that name the file and the arrays."""
    with pytest.raises(TaskError, match=words):
        load(arrays, **options)


def test_a_file_that_holds_code_is_not_opened(plugins: Plugins, tmp_path: Path) -> None:
    """Pickled objects would run code; damaged and missing files are named."""
    np.savez(tmp_path / "own.npz", x=np.array([{}], object), y=np.zeros(1))
    cls = plugins.load("task", "arrays")
    with pytest.raises(TaskError, match=r"own.npz cannot be read as arrays: Object arrays cannot be loaded"):
        build(cls, {"file": str(tmp_path / "own.npz")}, "test").load()
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04broken")
    np.save(tmp_path / "own.npy", np.zeros(3))
    for name in ("broken.npz", "none.npz", "own.npy"):
        with pytest.raises(TaskError, match=f"{name} cannot be read as arrays"):
            build(cls, {"file": str(tmp_path / name)}, "test").load()
