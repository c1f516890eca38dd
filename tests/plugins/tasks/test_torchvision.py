"""torchvision's data sets, read from small copies in torchvision's own file layouts."""

from __future__ import annotations

import hashlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learnforge import Plugins, RecipeError, Task, TaskError
from learnforge.options.structure import build


@pytest.fixture
def load(plugins: Plugins, tmp_path: Path) -> Any:
    """Load a data set from the test's folder."""

    def load_task(name: str, **options: Any) -> Task:
        cls = plugins.load("task", "torchvision")
        return build(cls, {"name": name, "root": str(tmp_path), **options}, "test").load()  # type: ignore[no-any-return]

    return load_task


def _write_idx(path: Path, data: np.ndarray[Any, Any]) -> None:
    header = struct.pack(">HBB", 0, 8, data.ndim) + struct.pack(f">{data.ndim}I", *data.shape)
    path.write_bytes(header + data.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Write 100 training and 20 test images; the shade of an image is its number, its label the last
    digit.
    """
    folder = tmp_path / "MNIST/raw"
    folder.mkdir(parents=True)
    for prefix, count in (("train", 100), ("t10k", 20)):
        shades = np.arange(count)[:, None, None] * np.ones((1, 28, 28))
        _write_idx(folder / f"{prefix}-images-idx3-ubyte", shades)
        _write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(count) % 10)
    return tmp_path


@pytest.mark.usefixtures("mnist")
def test_mnist_is_read_from_its_files(load: Any) -> None:
    """Images and labels come out as the files hold them; the official test images are the test split."""
    task = load("MNIST", validation=0.2)
    assert task.info.input_shape == (1, 28, 28)
    assert task.info.classes[:2] == ("0 - zero", "1 - one")
    assert task.info.origins[0] == "MNIST:0 - zero"
    for split in (task.train, task.validation, task.test):
        assert torch.equal(split.images[:, 0, 0, 0].long() % 10, split.labels)
    assert task.test.images[:, 0, 5, 7].tolist() == list(range(20))
    shades = [s for part in (task.train, task.validation) for s in part.images[:, 0, 0, 0].tolist()]
    assert sorted(shades) == list(range(100))
    assert torch.bincount(task.validation.labels).tolist() == [2] * 10


@pytest.mark.usefixtures("mnist")
def test_classes_are_kept_and_renumbered(load: Any) -> None:
    """Only the chosen labels stay, numbered from 0 in ascending order, in every split."""
    task = load("MNIST", classes=[7, 2])
    assert task.info.classes == ("2 - two", "7 - seven")
    for split in (task.train, task.validation, task.test):
        assert torch.equal(split.images[:, 0, 0, 0].long() % 10, torch.tensor([2, 7])[split.labels])


@pytest.mark.usefixtures("mnist")
def test_labels_per_class_counts_training_images_alone(load: Any) -> None:
    """So many training images of each class stay; validation and test are whole."""
    task, whole = load("MNIST", labels_per_class=3), load("MNIST")
    assert torch.bincount(task.train.labels).tolist() == [3] * 10
    assert task.validation.content == whole.validation.content
    assert task.test.content == whole.test.content


@pytest.mark.usefixtures("mnist")
def test_size_resizes(load: Any) -> None:
    """Images are resized to `size`, a plain shade unchanged."""
    task = load("MNIST", size=14)
    assert task.info.input_shape == (1, 14, 14)
    assert torch.equal(task.test.images.amin((1, 2, 3)), task.test.images.amax((1, 2, 3)))
    assert task.test.images[:, 0, 0, 0].tolist() == list(range(20))


@pytest.mark.usefixtures("mnist")
def test_unknown_labels_are_refused(load: Any) -> None:
    """A label that the data set lacks is named, with the range."""
    with pytest.raises(TaskError, match=r"task.classes: MNIST has the labels 0 to 9, got \[12\]"):
        load("MNIST", classes=[1, 12])


def test_cifar10_is_read_from_its_files(load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Colour images come out as [image, channel, height, width], with the class names of the data set."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, data: Any) -> tuple[str, str]:
        content = pickle.dumps(data)
        (folder / name).write_bytes(content)
        return name, hashlib.md5(content).hexdigest()

    def batch(count: int) -> dict[str, Any]:
        pixels = np.zeros((count, 3, 32, 32), dtype=np.uint8)
        pixels[:, 0], pixels[:, 1, 0, 31] = np.arange(count)[:, None, None], 7
        return {"data": pixels.reshape(count, -1), "labels": [i % 10 for i in range(count)]}

    names = [f"kind {i}" for i in range(10)]
    monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", batch(50))])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(20))])
    meta = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    task = load("CIFAR10")
    assert task.info.classes == tuple(names)
    assert task.info.input_shape == (3, 32, 32)
    assert task.test.images[:, 0, 3, 4].tolist() == list(range(20))
    assert task.test.images[:, 1, 0, 31].unique().tolist() == [7]
    assert task.test.images[:, 1, 31, 0].unique().tolist() == [0]
    assert task.test.labels.tolist() == [i % 10 for i in range(20)]


@pytest.mark.parametrize(
    ("name", "attribute"), [("SVHN", "labels"), ("STL10", "labels"), ("USPS", "targets")]
)
def test_data_sets_of_other_layouts(
    load: Any, monkeypatch: pytest.MonkeyPatch, name: str, attribute: str
) -> None:
    """Data sets without class names, with labels under either name, with channels first or without, all
    fit.
    """
    channels = () if name == "USPS" else (3,)

    class Fake:
        def __init__(self, root: str, download: bool, **which: Any):
            is_train = which in ({"split": "train"}, {"train": True})
            assert is_train or which in ({"split": "test"}, {"train": False})
            assert not download
            count = 40 if is_train else 10
            self.data = np.zeros((count, *channels, 8, 8), dtype=np.uint8)
            self.data[..., 0, 7] = 9
            setattr(self, attribute, np.arange(count) % 2)

    monkeypatch.setattr(f"torchvision.datasets.{name}", Fake)
    task = load(name)
    assert task.info.classes == ("0", "1")
    assert task.info.input_shape == (len(channels) * 3 or 1, 8, 8)
    assert task.test.images[:, :, 0, 7].unique().tolist() == [9]
    assert task.test.images[:, :, 7, 0].unique().tolist() == [0]


@pytest.mark.parametrize(
    "name", ["MNIST", "FashionMNIST", "KMNIST", "USPS", "SVHN", "CIFAR10", "CIFAR100", "STL10"]
)
def test_missing_data_say_where_and_what_to_do(load: Any, tmp_path: Path, name: str) -> None:
    """Without the files the error names the data set, the folder, and what to do."""
    with pytest.raises(TaskError, match=rf"{name} must be in {tmp_path}, .* set `download = true`"):
        load(name)


def test_failed_download_says_so(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that fails points to the network."""
    from urllib.error import URLError

    def fail(root: str, download: bool, train: bool) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr("torchvision.datasets.KMNIST", fail)
    with pytest.raises(TaskError, match=r"check the network\. torchvision says: .*no route to host"):
        load("KMNIST", download=True)


def test_damaged_file_is_reported(load: Any, mnist: Path) -> None:
    """A file cut off in the middle is a task error that names the data set, not a traceback from
    torchvision.
    """
    file = mnist / "MNIST/raw/train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TaskError, match=r"MNIST"):
        load("MNIST")


def test_unknown_data_set_is_refused(load: Any) -> None:
    """An unknown name is refused with the nearest."""
    with pytest.raises(RecipeError, match=r"name: must be one of .*did you mean 'CIFAR10'\?"):
        load("CIFAR11")
