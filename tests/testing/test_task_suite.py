"""Each fault of a task turns the check red that is meant for it, and no other.

Reference: https://example.org/stripes
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from attrs import evolve, field, frozen
from PIL import Image
from tests.testing.breadth import BREADTHS, failed_checks
from torch import Tensor

from learnforge import EpisodeShape, Plugins, Task, TaskError, TaskSource
from learnforge.kinds.seen.episodes import EpisodeSource
from learnforge_kit import MemorySplit
from learnforge_kit.data.episodes import ImageEpisodeSource
from learnforge_kit.data.normaliser import Normaliser
from learnforge_testing.suite import Report
from learnforge_testing.suites.task import TaskSuite
from learnforge_testing.toys import make_task


@frozen
class Stripes(TaskSource):
    """A class is the row of a bright stripe."""

    def load(self) -> Task:
        task = make_task()
        images = task.train.images  # type: ignore[attr-defined]
        pixels = images.double() / 255
        info = evolve(task.info, mean=(float(pixels.mean()),), std=(float(pixels.std(correction=0)),))
        return evolve(task, info=info)


@frozen
class Episodic(Stripes):
    """Brings episodes and no images of a validation split."""

    has_episodes: ClassVar[bool] = True

    def load(self) -> Task:
        task = super().load()
        nothing = task.validation.select(torch.arange(0))
        return evolve(task, validation=nothing, episodes=_Source(task).make)


class _Source:
    """Makes sources of episodes of one split."""

    kind: type[ImageEpisodeSource] = ImageEpisodeSource

    def __init__(self, task: Task):
        self.task = task

    def make(self, name: str, shape: EpisodeShape, device: torch.device) -> EpisodeSource:
        images = Normaliser(self.task.info, device)(self.task.train.images)  # type: ignore[attr-defined]
        return self.kind.of(images, self.task.train.labels, shape, name)


class _Clumsy(ImageEpisodeSource):
    """Draws from the whole batch of numbers."""

    def draw(self, seed: int, indices: Tensor) -> Any:
        return super().draw(seed + len(indices), indices)


class _ClumsySource(_Source):
    kind = _Clumsy


@frozen
class Together(Episodic):
    """Episodes depend on those drawn with them."""

    def load(self) -> Task:
        task = super().load()
        return evolve(task, episodes=_ClumsySource(task).make)


@frozen
class Folder(Stripes):
    """Reads a file that must be there.

    Args:
        root: Folder of the file.
    """

    root: Path = field(default=Path("/"))

    def load(self) -> Task:
        if self.root != Path("/") and not (self.root / "stripes").exists():
            raise TaskError(f"task.root: {self.root} must hold the file `stripes`")
        return super().load()


@frozen
class Unhelpful(Folder):
    """Hands over the error of the file system.

    Args:
        root: Folder of the file.
    """

    def load(self) -> Task:
        if self.root != Path("/"):
            (self.root / "stripes").read_bytes()
        return Stripes().load()


@frozen
class Counting(Stripes):
    """Learns fewer images with every load."""

    loaded: ClassVar[list[int]] = []

    def load(self) -> Task:
        self.loaded.append(1)
        task = super().load()
        return evolve(task, train=task.train.select(torch.arange(60 - len(self.loaded))))


@frozen
class Untested(Stripes):
    """Has no test images."""

    def load(self) -> Task:
        task = super().load()
        return evolve(task, test=task.test.select(torch.arange(0)))


@frozen
class Nameless(Stripes):
    """Gives two classes one name."""

    def load(self) -> Task:
        task = super().load()
        return evolve(task, info=evolve(task.info, classes=("stripe", "stripe", "stripe 2")))


@frozen
class Bytes(Stripes):
    """Measures the deviation of other images."""

    def load(self) -> Task:
        task = super().load()
        return evolve(task, info=evolve(task.info, std=(0.9,)))


@frozen
class Numbers(Stripes):
    """Says that its labels, which are classes, are numbers."""

    def load(self) -> Task:
        task = super().load()
        return evolve(task, info=evolve(task.info, form="regression"))


@frozen
class Shifted(Stripes):
    """Shows the classes 1 to 3 of 3."""

    def load(self) -> Task:
        task = super().load()
        splits = {
            name: MemorySplit(split.images, split.labels + 1)
            for name in ("train", "validation", "test")
            if isinstance(split := getattr(task, name), MemorySplit)
        }
        return evolve(task, **splits)


@frozen
class Taller(Stripes):
    """Declares images of another height."""

    def load(self) -> Task:
        task = super().load()
        return evolve(task, info=evolve(task.info, input_shape=(1, 9, 8)))


@frozen
class Leaking(Stripes):
    """Tests on images that it validates with."""

    def load(self) -> Task:
        task = super().load()
        return evolve(task, test=task.validation.select(torch.arange(10, 30)))


@frozen
class Torn(Stripes):
    """Tests on a class of its own that has the origin of one to train with."""

    def load(self) -> Task:
        task = super().load()
        info = evolve(task.info, origins=("stripes:0", "stripes:1", "stripes:1"))
        known = (task.train.labels < 2).nonzero().flatten()
        unseen = (task.test.labels == 2).nonzero().flatten()
        train, test = task.train.select(known), task.test.select(unseen)
        pixels = train.images.double() / 255  # type: ignore[attr-defined]
        info = evolve(info, mean=(float(pixels.mean()),), std=(float(pixels.std(correction=0)),))
        return evolve(task, info=info, train=train, validation=task.validation.select(known), test=test)


@frozen(eq=False, slots=False)
class _Sorting(MemorySplit):
    """Hands images out in ascending order."""

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return super().batches(order.sort().values, batch_size)

    def select(self, indices: Tensor) -> MemorySplit:
        return MemorySplit(self.images[indices], self.labels[indices])


@frozen(eq=False, slots=False)
class _Forgetful(MemorySplit):
    """Selects the labels of the first images."""

    def select(self, indices: Tensor) -> MemorySplit:
        return MemorySplit(self.images[indices], self.labels[: len(indices)])


@frozen(eq=False, slots=False)
class _Rounding(MemorySplit):
    """Rounds the bytes where they are moved to a device."""

    def load(self, device: torch.device) -> MemorySplit:
        return MemorySplit(self.images // 2 * 2, self.labels)


class _Closure(MemorySplit):
    """Holds a function that does not pickle."""

    def select(self, indices: Tensor) -> MemorySplit:
        chosen = _Closure(self.images[indices], self.labels[indices])
        object.__setattr__(chosen, "read", lambda: None)
        return chosen


def _with_train(split: type[MemorySplit]) -> Task:
    task = Stripes().load()
    assert isinstance(task.train, MemorySplit)
    return evolve(task, train=split(task.train.images, task.train.labels))


@frozen
class Sorting(Stripes):
    """Its batches are sorted."""

    def load(self) -> Task:
        return _with_train(_Sorting)


@frozen
class Forgetful(Stripes):
    """Its selections have labels of other images."""

    def load(self) -> Task:
        return _with_train(_Forgetful)


@frozen
class Rounding(Stripes):
    """Its images change on the way to a device."""

    def load(self) -> Task:
        return _with_train(_Rounding)


@frozen
class Closed(Stripes):
    """Its images stay in the process."""

    def load(self) -> Task:
        return _with_train(_Closure)


FAULTS: list[tuple[type[TaskSource], list[str]]] = [
    (Stripes, []),
    (Folder, []),
    (Episodic, []),
    # a task that depends on more than its options gives another result twice
    (Counting, ["random_state_is_untouched", "result_is_the_same_in_another_process"]),
    (Untested, ["splits_hold_images"]),
    (Nameless, ["description_is_complete"]),
    (Bytes, ["mean_and_deviation_are_those_of_the_training_images"]),
    (Shifted, ["targets_are_of_the_form", "labels_are_indices_of_classes"]),
    (Numbers, ["targets_are_of_the_form"]),
    (Taller, ["images_are_bytes_of_the_declared_shape"]),
    (Leaking, ["splits_share_no_images"]),
    (Torn, ["origins_stay_together"]),
    (Sorting, ["batches_keep_the_order_and_cover_it"]),
    (Forgetful, ["selection_holds_what_was_selected"]),
    (Rounding, ["loading_on_a_device_keeps_the_content"]),
    (Closed, ["task_goes_to_another_process"]),
    (Unhelpful, ["missing_data_are_named"]),
    (Together, ["episodes_are_a_function_of_seed_and_number"]),
]


@BREADTHS
@pytest.mark.parametrize(("method", "broken"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_broken_methods_fail_the_check_meant_for_them(
    method: type[TaskSource], broken: list[str], breadth: str
) -> None:
    """Each fault shows in its check and in no other."""
    assert list(failed_checks(TaskSuite.of(method), broken, breadth)) == broken


def test_every_check_of_the_kind_has_a_fault() -> None:
    """No check of tasks is left that nothing has turned red."""
    own = {name.removeprefix("test_") for name in vars(TaskSuite) if name.startswith("test_")}
    assert own <= {name for _, names in FAULTS for name in names}


def test_what_a_task_does_not_have_is_skipped() -> None:
    """Paths and episodes are checked where a task has them, and skipped with the reason elsewhere."""
    assert {check.name: check.skip for check in TaskSuite.of(Stripes).checks() if check.skip} == {
        "missing_data_are_named": "the task has no option that is a path",
        "episodes_are_a_function_of_seed_and_number": "the task's episodes are drawn from its splits",
    }


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (
            Leaking,
            "splits_share_no_images",
            r"test and validation must not .* 100.0% of test are in validation",
        ),
        (Torn, "origins_stay_together", r"train and test show .* \['stripes:1'\]"),
        (
            Unhelpful,
            "missing_data_are_named",
            r"root = .* empty folder: must raise TaskError, got FileNotFound",
        ),
    ],
)
def test_messages_say_what_came(method: type[TaskSource], check: str, words: str) -> None:
    """A failure names splits, origins and paths."""
    with pytest.raises(AssertionError, match=words):
        getattr(TaskSuite.of(method)(), f"test_{check}")()


# Built-in tasks that need data


def _write_images(root: Path) -> dict[str, Any]:
    """Write noise, brighter in one of two classes."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for i in range(15):
            pixels = rng.integers(0, 150, (6, 6)) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return {"root": str(root)}


def _write_mnist(root: Path) -> dict[str, Any]:
    """Write noise in the files of MNIST."""
    folder, rng = root / "MNIST/raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for prefix, count in (("train", 200), ("t10k", 40)):
        images, labels = rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10
        for kind, data in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(">HBB", 0, 8, data.ndim) + struct.pack(f">{data.ndim}I", *data.shape)
            (folder / f"{prefix}-{kind}-ubyte").write_bytes(header + data.astype(np.uint8).tobytes())
    return {"name": "MNIST", "root": str(root)}


@pytest.mark.parametrize(
    ("name", "write", "options"),
    [
        ("image-folder", _write_images, {}),
        ("image-folder", _write_images, {"memory_mib": 0, "workers": 0}),
        ("torchvision", _write_mnist, {}),
        ("digits", lambda root: {}, {"rotations": 4, "test_classes": [4, 7]}),
    ],
)
def test_built_in_tasks_with_data_conform(
    plugins: Plugins, tmp_path: Path, name: str, write: Any, options: dict[str, Any]
) -> None:
    """Tasks that read folders pass on small ones, whether images are held or read as they are needed."""
    suite = TaskSuite.of(plugins.load("task", name), {**write(tmp_path / "data"), **options})
    report = Report(name, tuple(suite.run()))
    assert report.is_good, [(o.name, o.words) for o in report.outcomes if o.state == "failed"]
    assert report.ran >= 19
