"""What every task must keep to: splits that fit its description, batches in order, and nothing in two splits.

Of large splits the checks look at `LOOKED_AT` images, evenly spread.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from learnforge.errors import TaskError
from learnforge.kinds.form import form_of
from learnforge.kinds.seen.episodes import EpisodeShape, EpisodeSource
from learnforge.kinds.task import Split, Task, TaskSource
from learnforge_kit.data.splits import measure_channels
from learnforge_kit.description import describe
from learnforge_kit.drawing import permutation
from learnforge_testing.elsewhere import digest
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import needs, require

SPLITS = ("train", "validation", "test")


LOOKED_AT = 2000


SHARED = 0.01
"""Largest share of a split's images that may be found in another one; real data repeat a few."""

_LOADED: dict[type, Task] = {}


class TaskSuite(MethodSuite):
    """Checks of tasks. The task is loaded once for all checks but those of loading itself."""

    kind: ClassVar[str] = "task"
    base: ClassVar[type] = TaskSource

    def result(self) -> Any:
        """Load afresh and return description, content and some of each split."""
        task: Task = self.make().load()
        return [task.info, task.content, [_read(split, _some(split, 50)) for _, split in _splits(task)]]

    def test_random_state_is_untouched(self) -> None:
        """Loading draws nothing from global generators, though a library may that is imported for it."""
        self._task()
        super().test_random_state_is_untouched()

    def test_splits_hold_images(self) -> None:
        """Every split holds images; a task may lack them that brings its own episodes."""
        empty = [name for name in SPLITS if not len(getattr(self._task(), name))]
        require(not empty or self.method.has_episodes, f"every split must hold an image, {empty} are empty")

    def test_description_is_complete(self) -> None:
        """There is one name and one origin a class, or number of a regression, no name twice, and one mean
        and deviation a channel.
        """
        info = self._task().info
        require(info.name, "the task must have a name")
        least = 2 if info.form == "classification" else 1
        classes = list(info.classes)
        require(len(classes) >= least, f"there must be {least} classes at least, got {classes}")
        require(len(set(info.classes)) == len(info.classes), f"class names must differ, got {info.classes}")
        require(
            len(info.origins) == len(info.classes),
            f"there must be an origin for each of {len(info.classes)} classes, got {len(info.origins)}",
        )
        wrong = [origin for origin in info.origins if not all(origin.partition(":"))]
        require(not wrong, f"origins must be written `data set:label`, got {wrong}")
        is_image = info.inputs == "bytes"
        axes = len(info.input_shape)
        require(
            (axes == 3 if is_image else axes > 0) and min(info.input_shape) > 0,
            "input_shape must be channels, height and width, or for floats one axis at least, got "
            f"{info.input_shape}",
        )
        for name in ("mean", "std"):
            values, most = getattr(info, name), 1.0 if is_image else math.inf
            lowest = 0.0 if is_image else -math.inf
            bound = 1e-9 if name == "std" else lowest
            require(
                len(values) == info.input_shape[0] and all(bound <= value <= most for value in values),
                f"{name} must be {info.input_shape[0]} numbers, of images in [0, 1], and std above 0, got "
                f"{values}",
            )

    def test_mean_and_deviation_are_those_of_the_training_images(self) -> None:
        """Mean and deviation of each channel are the training images', as shares of the largest byte; of
        floats in their own units.
        """
        task = self._task()
        if not len(task.train):
            return
        found = measure_channels(_read(task.train, _some(task.train))[0])
        close = [0.02 if task.info.inputs == "bytes" else 0.1 * spread for spread in found[1]]
        for name, measured in zip(("mean", "std"), found, strict=True):
            declared = getattr(task.info, name)
            require(
                all(
                    math.isclose(d, m, rel_tol=0.1, abs_tol=own)
                    for d, m, own in zip(declared, measured, close, strict=True)
                ),
                f"{name} must be the training images', about {_round(measured)}, got {_round(declared)}",
            )

    def test_targets_are_of_the_form(self) -> None:
        """The task's form finds no fault in the targets of the splits."""
        task = self._task()
        form = form_of(task.info.form)
        fault = form.fault(task) if len(task.train) else ""
        require(not fault, f"targets must be of the form {task.info.form!r}: {fault}")

    def test_labels_are_indices_of_classes(self) -> None:
        """Where a target is one class, labels are int64 [image], in [0, classes), and every class is shown by
        some split.
        """
        task, shown = self._task(), set[int]()
        if not form_of(task.info.form).names_one_class:
            return
        for name, split in _splits(task):
            labels = split.labels
            require(
                labels.dtype == torch.int64 and labels.shape == (len(split),),
                f"{name}: labels must be int64 [{len(split)}], got {labels.dtype} {list(labels.shape)}",
            )
            ends = int(labels.min()), int(labels.max())
            require(
                ends[0] >= 0 and ends[1] < task.info.outputs,
                f"{name}: labels must be in [0, {task.info.outputs}), got {ends[0]} to {ends[1]}",
            )
            shown |= set(labels.unique().tolist())
        left = [name for label, name in enumerate(task.info.classes) if label not in shown]
        require(not left or self.method.has_episodes, f"some split must show every class, none shows {left}")

    def test_images_are_bytes_of_the_declared_shape(self) -> None:
        """Batches hold images uint8 [batch, channel, height, width], of the task's input shape; or finite
        float32, where the task says so.
        """
        task = self._task()
        dtype = torch.uint8 if task.info.inputs == "bytes" else torch.float32
        for name, split in _splits(task):
            images, _, _ = next(split.batches(_some(split, 8), 8))
            want = (len(images), *task.info.input_shape)
            require(
                images.dtype == dtype and tuple(images.shape) == want,
                f"{name}: images must be {dtype} {list(want)}, got {images.dtype} {list(images.shape)}",
            )
            require(bool(images.isfinite().all()), f"{name}: inputs must be finite")

    def test_splits_share_no_images(self) -> None:
        """Hardly an image of a split, byte for byte, is found in another split too."""
        hashes = {name: _hashes(split) for name, split in _splits(self._task())}
        names = list(hashes)
        for i, name in enumerate(names):
            for other in names[:i]:
                both = [image for image in hashes[name] if image in set(hashes[other])]
                share = len(both) / len(hashes[name])
                require(
                    share < SHARED,
                    f"{name} and {other} must not share images, but {share:.1%} of {name} are in {other} too",
                )

    def test_origins_stay_together(self) -> None:
        """Where splits show other classes of one origin, they share one: a label is never torn apart."""
        task = self._task()
        if not form_of(task.info.form).names_one_class:
            return
        origins = dict(enumerate(task.info.origins))
        shown = {name: set(split.labels.unique().tolist()) & set(origins) for name, split in _splits(task)}
        for name, labels in shown.items():
            for other, others in shown.items():
                kept = {origins[label] for label in labels & others}
                torn = {origins[label] for label in labels} & {origins[label] for label in others} - kept
                require(not torn, f"{name} and {other} show other classes of one origin, {sorted(torn)}")

    def test_batches_keep_the_order_and_cover_it(self) -> None:
        """Batches go through an order as it is given, the last one smaller; no order gives no batch."""
        for name, split in _splits(self._task()):
            order = permutation(0, len(split))[:20]
            parts = list(split.batches(order, 6))
            sizes = [len(order[start : start + 6]) for start in range(0, len(order), 6)]
            got = [len(images) for images, _, _ in parts]
            require(got == sizes, f"{name}: batches of {len(order)} by 6 must hold {sizes} images, got {got}")
            images, labels, indices = (torch.cat(part) for part in zip(*parts, strict=True))
            require(
                torch.equal(indices, order),
                f"{name}: indices must be {order.tolist()}, got {indices.tolist()}",
            )
            require(torch.equal(labels, split.labels[order]), f"{name}: labels must be those of the indices")
            back = _read(split, order.flip(0))[0].flip(0)
            require(torch.equal(images, back), f"{name}: an image must be the same in any order")
            require(not list(split.batches(order[:0], 6)), f"{name}: an empty order must give no batch")

    def test_selection_holds_what_was_selected(self) -> None:
        """`select` gives the images and labels at its positions, and a content of its own."""
        for name, split in _splits(self._task()):
            positions = permutation(1, len(split))[:10]
            chosen = split.select(positions)
            require(
                len(chosen) == len(positions), f"{name}: {len(positions)} images must be, got {len(chosen)}"
            )
            places = positions.sort()
            ascending = _read(split, places.values)[0]
            images, labels = _read(chosen, torch.arange(len(chosen)))
            require(
                torch.equal(images[places.indices], ascending)
                and torch.equal(labels, split.labels[positions]),
                f"{name}: a selection must hold the images and labels at its positions, in their order",
            )
            contents = [split.select(p).content for p in (positions, positions, positions[:-1])]
            require(contents[0] == contents[1], f"{name}: equal selections must have equal contents")
            require(contents[0] != contents[2], f"{name}: other selections must have other contents")

    def test_loading_on_a_device_keeps_the_content(self) -> None:
        """`load` of a device gives the same content, and the batches come out there."""
        task, device = self._task(), torch.device("cpu")
        here = task.load(device)
        require(here.content == task.content, "loading on a device must keep the content")
        for name, split in _splits(here):
            images, labels, _ = next(split.batches(_some(split, 4), 4))
            require({images.device, labels.device} == {device}, f"{name}: batches must come out on {device}")

    def test_task_goes_to_another_process(self) -> None:
        """Its splits are pickled and come back the same, as the workers of a search need."""
        for name, split in _splits(self._task()):
            few = split.select(_some(split, 8))
            try:
                back = pickle.loads(pickle.dumps(few))
            except Exception as error:
                raise AssertionError(
                    f"{name}: a split must pickle, with functions of a module's top level only; got "
                    f"{type(error).__name__}: {error}"
                ) from error
            require(back.content == few.content, f"{name}: the content must survive pickling")

    @needs(
        lambda suite: any("a path" in option.type for option in describe(suite.method)),
        "the task has no option that is a path",
    )
    def test_missing_data_are_named(self) -> None:
        """Where a path of the options is missing or an empty folder, `TaskError` names it."""
        with tempfile.TemporaryDirectory() as folder:
            for option in (option for option in describe(self.method) if "a path" in option.type):
                for path in (Path(folder), Path(folder) / "none"):
                    self._refuses_data(option.name, path)

    @needs(lambda suite: suite.method.has_episodes, "the task's episodes are drawn from its splits")
    def test_episodes_are_a_function_of_seed_and_number(self) -> None:
        """An episode depends on the seed and its own number, not on those drawn with it or before."""
        make = self._task().episodes
        require(make is not None, "a task that declares `has_episodes` must have `episodes`")
        assert make is not None
        for name in SPLITS:
            source = make(name, EpisodeShape(2, 1, 2), torch.device("cpu"))
            draw = partial(_support, source, self._task().info.outputs)
            first = draw(0, [0, 1, 2])
            require(digest(first) == digest(draw(0, [0, 1, 2])), f"{name}: drawn again, the same")
            alone = [part[1:2] for part in first]
            require(
                digest(alone) == digest(draw(0, [1])),
                f"{name}: an episode must be the same alone as in a batch",
            )
            require(
                digest(first) != digest(draw(1, [0, 1, 2])),
                f"{name}: another seed must give other episodes",
            )

    def _refuses_data(self, option: str, path: Path) -> None:
        words = f"{option} = {path.name!r}, which is " + ("an empty folder" if path.is_dir() else "missing")
        try:
            self.make(**{option: str(path)}).load()
        except TaskError as error:
            require(str(path) in str(error), f"{words}: the error must name the path, got {error}")
        except Exception as error:
            raise AssertionError(
                f"{words}: must raise TaskError, got {type(error).__name__}: {error}"
            ) from error
        else:
            raise AssertionError(f"{words}: must raise TaskError, but a task was loaded")

    def _task(self) -> Task:
        return _load(type(self))


def _load(suite: type[TaskSuite]) -> Task:
    """Load a suite's task once; the one before is forgotten."""
    if suite not in _LOADED:
        _LOADED.clear()
        _LOADED[suite] = suite().make().load()
    return _LOADED[suite]


def _splits(task: Task) -> Iterator[tuple[str, Split]]:
    """Yield the splits that hold something."""
    for name in SPLITS:
        split: Split = getattr(task, name)
        if len(split):
            yield name, split


def _some(split: Split, count: int = LOOKED_AT) -> Tensor:
    """Return positions spread evenly over a split, at most `count`."""
    return torch.arange(0, len(split), max(1, math.ceil(len(split) / count)))


def _read(split: Split, positions: Tensor) -> tuple[Tensor, Tensor]:
    parts = list(split.batches(positions, 256))
    return torch.cat([images for images, _, _ in parts]), torch.cat([labels for _, labels, _ in parts])


def _hashes(split: Split) -> list[bytes]:
    images, _ = _read(split, _some(split))
    return [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images]


def _support(source: EpisodeSource, outputs: int, seed: int, numbers: list[int]) -> list[Tensor]:
    """Draw episodes and return their support; in environments the policy has mean 0 and deviation 1."""

    def act(parameters: Any, images: Tensor) -> Tensor:
        return images.new_zeros(*images.shape[:2], outputs)

    support = source.draw(seed, torch.tensor(numbers)).begin(act, {}).support
    return [support.images, support.labels]


def _round(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]
