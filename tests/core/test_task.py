"""Tasks: batches, content hashes, stratified splits, channel statistics, and what is refused."""

from __future__ import annotations

import math
import re

import pytest
import torch
from attrs import evolve

from learnforge.errors import TaskError
from learnforge.kinds.task import Task, check_task, describe_task
from learnforge.spec import TaskInfo
from learnforge_kit.data.splits import MemorySplit, measure_channels, stratified
from learnforge_kit.data.streams import StreamSplit

CPU = torch.device("cpu")


@pytest.fixture
def memory():
    """Seven images of 1 × 2 × 3 bytes."""
    images = torch.randint(0, 256, (7, 1, 2, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return MemorySplit(images, torch.tensor([0, 1, 2, 0, 1, 2, 0]))


@pytest.fixture
def stream(memory, tmp_path):
    """The same images, each in a file."""
    for i, image in enumerate(memory.images):
        torch.save(image.clone(), tmp_path / f"{i}.pt")
    files = [tmp_path / f"{i}.pt" for i in range(len(memory))]
    return StreamSplit(files, memory.labels, torch.load, "abc", workers=0)


def listed(batches):
    """Return batches as plain lists."""
    return [[part.tolist() for part in batch] for batch in batches]


def test_batches_follow_the_order(memory):
    """Batches hold images, labels and positions in the order given, the last batch what is left."""
    order = torch.tensor([6, 0, 5, 3, 1])
    batches = list(memory.batches(order, 2))
    assert [b[2].tolist() for b in batches] == [[6, 0], [5, 3], [1]]
    assert [b[1].tolist() for b in batches] == [[0, 0], [2, 0], [1]]
    assert torch.equal(batches[1][0], memory.images[[5, 3]])
    assert batches[0][0].dtype == torch.uint8


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6], [6, 0, 5, 3, 1], []])
@pytest.mark.parametrize("size", [1, 3, 10])
def test_both_splits_give_the_same_batches(memory, stream, order, size):
    """Images from files come in the same batches as images from memory."""
    order = torch.tensor(order, dtype=torch.int64)
    assert listed(stream.batches(order, size)) == listed(memory.batches(order, size))


def test_reading_processes_change_nothing(memory, stream):
    """With a reading process the batches are the same."""
    order = torch.tensor([6, 0, 5, 3, 1])
    assert listed(evolve(stream, workers=1).batches(order, 2)) == listed(memory.batches(order, 2))


def test_streaming_draws_from_no_global_generator(stream):
    """Reading files leaves the state of torch's global generator alone."""
    before = torch.get_rng_state()
    listed(stream.batches(torch.arange(7), 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_selection_is_a_split_of_its_own(memory, stream):
    """A selection has the chosen images in the chosen order, counted from 0 again."""
    chosen = torch.tensor([5, 2, 0])
    for split in (memory, stream):
        part = split.select(chosen)
        assert len(part) == 3
        assert part.labels.tolist() == [2, 2, 0]
        (images, _, indices), *_ = part.batches(torch.tensor([2, 0]), 2)
        assert torch.equal(images, memory.images[[0, 5]])
        assert indices.tolist() == [2, 0]
        assert part.content != split.content
        assert part.content == split.select(chosen).content
        assert part.content != split.select(chosen.flip(0)).content


def test_content_changes_with_a_pixel_a_label_and_the_shape(memory):
    """The hash of a split changes with one pixel, one label, or the same bytes in another shape."""
    images, labels = memory.images, memory.labels
    pixel = images.clone()
    pixel[3, 0, 1, 2] ^= 1
    label = labels.clone()
    label[3] = 2
    contents = {
        MemorySplit(*parts).content
        for parts in ((images, labels), (pixel, labels), (images, label), (images.view(7, 1, 3, 2), labels))
    }
    assert len(contents) == 4
    assert MemorySplit(images.clone(), labels.clone()).content == memory.content
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert MemorySplit(turned, labels).content == memory.content


def test_content_of_a_task_changes_with_what_a_result_depends_on(memory):
    """The hash of a task follows its splits and facts, but not its name."""
    info = TaskInfo("a", ("x", "y", "z"), ("o:0", "o:1", "o:2"), (1, 2, 3), (0.5,), (0.2,))
    task = Task(info, memory, memory, memory)
    assert Task(evolve(info, name="b"), memory, memory, memory).content == task.content
    for change in ({"mean": (0.4,)}, {"classes": ("x", "y", "w")}, {"origins": ("o:0", "o:1", "o:1")}):
        assert Task(evolve(info, **change), memory, memory, memory).content != task.content
    part = memory.select(torch.arange(6))
    contents = {
        Task(info, *splits).content
        for splits in ((part, memory, memory), (memory, part, memory), (memory, memory, part))
    }
    assert len(contents | {task.content}) == 4


def test_loading_on_the_present_device_copies_nothing(memory, stream):
    """A split that is where it should be is handed back; a streamed one remembers the device."""
    assert memory.load(CPU) is memory
    assert stream.load(torch.device("meta")).device == torch.device("meta")


def test_measure_channels_by_hand():
    """Bytes 0 and 255 in equal parts have mean 1/2 and deviation 1/2; 0, 51, 102 have 1/5 and sqrt(2/75)."""
    images = torch.tensor([[[[0, 255, 0, 255, 0, 255]], [[0, 51, 102, 102, 51, 0]]]], dtype=torch.uint8)
    (first, second), (wide, narrow) = measure_channels(images)
    assert first == wide == pytest.approx(0.5, abs=1e-12)
    assert second == pytest.approx(0.2, abs=1e-12)
    assert narrow == pytest.approx(math.sqrt(2 / 75), abs=1e-12)


@pytest.mark.parametrize("value", [0, 11, 22, 255])
@pytest.mark.parametrize("count", [1, 3, 10])
def test_channel_of_one_value_has_deviation_1(value, count):
    """A channel without spread gets deviation 1, whatever rounding does to its mean."""
    mean, std = measure_channels(torch.full((count, 1, 1, 1), value, dtype=torch.uint8))
    assert mean[0] == pytest.approx(value / 255)
    assert std == (1.0,)


def test_stratified_gives_every_class_its_share():
    """20 % and 30 % of 10, 20 and 40 images are 2, 4, 8 and 3, 6, 12; the rest are 5, 10, 20."""
    labels = torch.tensor([0] * 10 + [1] * 20 + [2] * 40)[torch.randperm(70)]
    parts = stratified(labels, [0.2, 0.3], seed=1)
    counts = [torch.bincount(labels[part], minlength=3).tolist() for part in parts]
    assert counts == [[2, 4, 8], [3, 6, 12], [5, 10, 20]]
    assert torch.cat(parts).sort().values.tolist() == list(range(70))
    assert all(part.tolist() == sorted(part.tolist()) for part in parts)


def test_stratified_is_a_pure_function_of_the_seed():
    """Equal seeds split equally; another seed splits otherwise, and each class is cut elsewhere."""
    labels = torch.arange(3).repeat_interleave(30)
    first, again, other = (stratified(labels, [0.5], seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    places = [set((first[labels[first] == label] - 30 * label).tolist()) for label in range(3)]
    assert places[0] != places[1] != places[2]


def test_stratified_gives_small_classes_to_the_first_parts():
    """A part with a share gets at least one image of a class that has enough; a share of 0 gets none."""
    labels = torch.tensor([0, 1, 1, 2, 2, 2])
    first, second, rest = stratified(labels, [0.1, 0.1], seed=0)
    assert labels[first].tolist() == [0, 1, 2]
    assert labels[second].tolist() == [1, 2]
    assert labels[rest].tolist() == [2]
    assert [len(part) for part in stratified(labels, [0.0], seed=0)] == [0, 6]
    assert [len(part) for part in stratified(labels[:0], [0.5], seed=0)] == [0, 0]


def test_origins_are_those_of_the_labels_that_a_split_shows(task):
    """Two classes of one origin count once, and classes without an image not at all."""
    twin = evolve(task, info=evolve(task.info, origins=("d:4", "d:4", "d:1")))
    assert twin.origins_of(twin.train) == ["d:1", "d:4"]
    only = MemorySplit(task.train.images[:1], torch.tensor([1]))
    assert twin.origins_of(only) == ["d:4"]


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_empty_split_is_refused(task, name):
    """A task with an empty split is refused by the split's name."""
    check_task(task, "here")
    empty = task.train.select(torch.arange(0))
    with pytest.raises(TaskError, match=f"here: the {name} split must hold at least one image, it is empty"):
        check_task(evolve(task, **{name: empty}), "here")


def test_single_class_is_refused(task):
    """A task with one class is refused with its list of classes."""
    single = evolve(task, info=evolve(task.info, classes=("a",), origins=("a:0",)))
    with pytest.raises(
        TaskError, match=r"here: a classification task needs at least two classes, got \['a'\]"
    ):
        check_task(single, "here")


def test_describe_task(task):
    """A report gets name, classes, shape and sizes as plain data."""
    assert describe_task(task) == {
        "name": "stripes",
        "classes": ["stripe 0", "stripe 1", "stripe 2"],
        "shape": [1, 8, 8],
        "inputs": "bytes",
        "train": 60,
        "validation": 60,
        "test": 60,
    }


def test_a_task_is_shown_in_a_line(task):
    """Without its tensors."""
    assert re.fullmatch(
        r"Task\(\w+, classification: [\d,]+ train, [\d,]+ validation, 60 test images\)", repr(task)
    )
    assert repr(task.test) == "MemorySplit(60 images)"
