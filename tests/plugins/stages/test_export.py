"""Export: the proof of a file, what is left behind when it fails, and what the manual says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from attrs import evolve, frozen, validators
from PIL import Image
from torch import Tensor, nn

from learnforge import (
    Artifact,
    Context,
    EpisodeShape,
    Exporter,
    Plugins,
    RunError,
    Runtime,
    StageError,
    Task,
    TaskInfo,
    load_method,
)
from learnforge.artifact import from_module
from learnforge_kit import MemorySplit
from learnforge_kit.data.images import decode_image
from learnforge_kit.engines.adaptation import adapt_artifact
from learnforge_kit.errors import ExportMismatchError
from learnforge_plugins.stages.export import BATCH, Deployed, ExportStage
from learnforge_plugins.stages.meta.stage import MetaStage

MakeContext = Callable[..., Context]


@frozen
class Pickled(Exporter):
    """Saves class scores by image, changed by a factor and an offset for the first class."""

    suffix: ClassVar[str] = ".bin"
    factor: float = 1.0
    offset: float = 0.0
    is_full: bool = False

    def export(self, module: nn.Module, images: Tensor, path: Path) -> None:
        assert images.dtype == torch.uint8
        assert len(images) == 60
        assert not module.training
        if self.is_full:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"12345678")
        MODULES[path.name] = module

    def load(self, path: Path) -> Runtime:
        module = MODULES[path.name]
        offset = torch.tensor([self.offset, 0.0, 0.0])
        return lambda images: module(images) * self.factor + offset


@frozen
class Rough(Pickled):
    """Is judged by its accuracy, and has notes and a script."""

    is_exact: ClassVar[bool] = False
    runner: ClassVar[str] = "def score(images):\n    return images[0].reshape(1, 64)[:, :3].sum(0)"
    notes: ClassVar[list[str]] = []

    def annotate(self, path: Path, manual: str) -> None:
        assert path.is_file()
        self.notes.append(manual)


@frozen
class Missing(Pickled):
    """Needs what is not there."""

    def require(self) -> None:
        raise StageError("needs a tool chain: pip install tool-chain")


MODULES: dict[str, nn.Module] = {}


@pytest.fixture
def artifact(task: Task) -> Artifact:
    """A small network with batch statistics."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    network(torch.randn(16, 1, 8, 8))
    return from_module(network, task.info)


def export(method: Exporter, **settings: Any) -> ExportStage:
    """Make a stage."""
    return ExportStage(name="stage", method=method, **settings)


def test_parity_is_measured_on_every_test_image(
    task: Task, artifact: Artifact, make_context: MakeContext, tmp_path: Path
) -> None:
    """Differences, agreement and accuracies are those of the exporter's scores against the network's own."""
    own = artifact.predict(task.test.images)  # type: ignore[attr-defined]
    largest = float(own.abs().max())
    offset = 0.05 * largest
    found = export(Pickled(offset=offset), tolerance=0.1).run(task, {"source": artifact}, make_context())
    metrics = found.metrics
    theirs = own + torch.tensor([offset, 0.0, 0.0])
    assert metrics["max_difference"] == pytest.approx(offset, rel=1e-4)
    assert metrics["mean_difference"] == pytest.approx(offset / 3, rel=1e-4)
    assert metrics["relative_difference"] == pytest.approx(0.05, rel=1e-4)
    assert metrics["agreement"] == float((theirs.argmax(1) == own.argmax(1)).double().mean())
    assert metrics["test_accuracy"] == float((theirs.argmax(1) == task.test.labels).double().mean())
    assert metrics["network_accuracy"] == float((own.argmax(1) == task.test.labels).double().mean())
    assert (metrics["is_equal"], metrics["images"], metrics["bytes"]) == (True, 60, 8)
    assert metrics["latency_ms"] > 0
    assert metrics["network_latency_ms"] > 0
    assert metrics["latency_64_ms"] > 0
    assert metrics["network_latency_64_ms"] > 0
    assert metrics["classes"] == list(task.info.classes)
    assert metrics["parameters"] == 4 * 9 + 4 + 8 + 144 * 3 + 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.json"]


@frozen(eq=False, slots=False)
class Watched(MemorySplit):
    """Fails where a batch is asked for while one before the last is still alive."""

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        alive: list[weakref.ref[Tensor]] = []
        for images, labels, indices in super().batches(order, batch_size):
            assert all(batch() is None for batch in alive[:-1])
            alive.append(weakref.ref(images))
            yield images, labels, indices


def test_test_images_are_read_a_batch_at_a_time(
    task: Task, artifact: Artifact, make_context: MakeContext
) -> None:
    """A split that does not fit into memory can prove a file, and measures what one that is held does."""
    own = task.test
    assert isinstance(own, MemorySplit)
    images, labels = own.images.repeat(15, 1, 1, 1), own.labels.repeat(15)
    assert len(images) > 3 * BATCH
    splits = MemorySplit(images, labels), Watched(images, labels)
    held, streamed = (
        export(Pickled()).run(evolve(task, test=split), {"source": artifact}, make_context()).metrics
        for split in splits
    )
    assert streamed["images"] == 900
    assert {k: v for k, v in held.items() if "latency" not in k} == {
        k: v for k, v in streamed.items() if "latency" not in k
    }


def test_the_manual_says_how_to_run_the_file(
    task: Task, artifact: Artifact, make_context: MakeContext, tmp_path: Path
) -> None:
    """`model.json` names the file, its input, its output and its classes."""
    export(Pickled()).run(task, {"source": artifact}, make_context())
    manual = json.loads((tmp_path / "model.json").read_text())
    assert manual["file"] == "model.bin"
    assert manual["input"]["type"] == "uint8"
    assert manual["input"]["shape"] == [1, 8, 8]
    assert manual["output"]["axes"] == ["batch", "class"]
    assert manual["classes"] == list(task.info.classes)


def test_a_file_that_is_not_exact_is_judged_by_its_accuracy(
    task: Task, artifact: Artifact, make_context: MakeContext, tmp_path: Path
) -> None:
    """Scores may be off where the accuracy stays within `largest_loss`; where it does not, the file is kept
    under another name, and no manual or script is.
    """
    (tmp_path / "bad").mkdir()
    off = export(Rough(factor=0.7)).run(task, {"source": artifact}, make_context())
    assert not off.metrics["is_equal"]
    assert not off.metrics["is_exact"]
    assert off.metrics["agreement"] == 1
    best = artifact.predict(task.test.images).argmax(1)  # type: ignore[attr-defined]
    perfect = evolve(task, test=MemorySplit(task.test.images, best))  # type: ignore[attr-defined]
    words = (
        r"may lose 1\.0% of accuracy \(`largest_loss`\), but it gets [\d.]+% where the network gets 100\.0%"
    )
    with pytest.raises(ExportMismatchError, match=words):
        export(Rough(offset=1e6)).run(perfect, {"source": artifact}, make_context(tmp_path / "bad"))
    assert [path.name for path in (tmp_path / "bad").iterdir()] == ["rejected-model.bin"]
    allowed = export(Rough(offset=1e6), largest_loss=1.0)
    assert allowed.run(perfect, {"source": artifact}, make_context(None)).metrics["network_accuracy"] == 1


def test_the_file_is_annotated_and_has_a_script(
    task: Task, artifact: Artifact, make_context: MakeContext, tmp_path: Path
) -> None:
    """The exporter gets the manual for the file's metadata; the script beside it needs no learnforge, says
    the class and its share of the softmax, and reads images of all sorts as learnforge does.
    """
    Rough.notes.clear()
    export(Rough()).run(task, {"source": artifact}, make_context())
    manual = json.loads((tmp_path / "model.json").read_text())
    assert [json.loads(notes) for notes in Rough.notes] == [manual]
    script = (tmp_path / "run_model.py").read_text()
    assert "learnforge" not in script
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0, :3] = [1, 3, 2]
    share = math.exp(3) / sum(map(math.exp, (1, 2, 3)))
    ways = {
        "grey.png": Image.fromarray(pixels),
        "transparent.png": Image.fromarray(pixels).convert("LA"),
        "wide.png": Image.fromarray(pixels.astype(np.uint16) * 257),
        "bytes in 32 bits.tif": Image.fromarray(pixels.astype(np.int32)),
        "shares.tif": Image.fromarray(pixels.astype(np.float32) / 255),
    }
    for name, image in ways.items():
        image.save(tmp_path / name)
        assert torch.equal(decode_image(tmp_path / name, 8, 1)[0], torch.from_numpy(pixels)), name
        done = subprocess.run(
            [sys.executable, "-I", tmp_path / "run_model.py", tmp_path / name],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == f"{task.info.classes[1]} {share:.4f}\n", name
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "photo.png", exif=turned)
    assert torch.equal(decode_image(tmp_path / "photo.png", 8, 1)[0], torch.from_numpy(pixels))
    Image.fromarray(pixels).save(tmp_path / "damaged.png", exif=b"Exif\x00\x00no metadata")
    names = ["photo.png", "missing.png", "damaged.png"]
    done = subprocess.run(
        [sys.executable, "-I", "run_model.py", *names],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    answer = f"{task.info.classes[1]} {share:.4f}"
    assert done.stdout.splitlines() == [f"photo.png {answer}", f"damaged.png {answer}"]
    assert done.stderr.startswith("missing.png cannot be read as an image: ")


def test_the_script_says_how_it_is_used(
    task: Task, artifact: Artifact, make_context: MakeContext, tmp_path: Path
) -> None:
    """Without an image, or with a file that is none, it tells so instead of a traceback."""
    export(Rough()).run(task, {"source": artifact}, make_context())
    script = [sys.executable, "-I", tmp_path / "run_model.py"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "usage: python run_model.py IMAGE ...\n"
    (tmp_path / "bad.png").write_bytes(b"no image")
    for name in ("bad.png", "missing.png"):
        command = [*script, tmp_path / name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"{tmp_path / name} cannot be read as an image: ")


def test_what_an_exporter_lacks_is_said_beforehand(task: Task, artifact: Artifact) -> None:
    """`check` has the words of `require`."""
    (problem,) = export(Missing()).check(task, {"source": artifact}, Plugins())
    assert str(problem) == "use: needs a tool chain: pip install tool-chain"


@pytest.mark.parametrize("factor", [1.001, 0.0, float("nan")])
def test_a_file_that_is_off_is_rejected(
    factor: float, task: Task, artifact: Artifact, make_context: MakeContext, tmp_path: Path
) -> None:
    """A mismatch ends the stage; the file is kept under another name, and there is no model or manual."""
    words = (
        r"within 0\.0001 of the largest, but it is off by (0\.001|1|nan), and names the same class for "
        r"[\d.]+% of 60 images\. It is kept as rejected-model\.bin for inspection\."
    )
    with pytest.raises(ExportMismatchError, match=words):
        export(Pickled(factor=factor)).run(task, {"source": artifact}, make_context())
    assert [path.name for path in tmp_path.iterdir()] == ["rejected-model.bin"]


def test_the_tolerance_is_relative_to_the_largest_score(
    task: Task, artifact: Artifact, make_context: MakeContext
) -> None:
    """A factor of 1.001 passes a tolerance of 0.002 and fails one of 0.0005."""
    stage = export(Pickled(factor=1.001), tolerance=2e-3)
    assert stage.run(task, {"source": artifact}, make_context(None)).metrics["is_equal"]
    with pytest.raises(ExportMismatchError, match=r"within 0\.0005"):
        evolve(stage, tolerance=5e-4).run(task, {"source": artifact}, make_context(None))


def test_a_full_disk_is_named_and_leaves_nothing(
    task: Task, artifact: Artifact, make_context: MakeContext, tmp_path: Path
) -> None:
    """An error of the disk is reported with the path, and no part of a file stays."""
    with pytest.raises(RunError, match=r"cannot write .*model\.bin: the disk is full"):
        export(Pickled(is_full=True)).run(task, {"source": artifact}, make_context())
    assert list(tmp_path.iterdir()) == []


def test_the_normalisation_is_inside(task: Task, artifact: Artifact) -> None:
    """The deployed module takes bytes and gives the scores that the artifact gives for them."""
    images = task.test.images  # type: ignore[attr-defined]
    module = Deployed(artifact.network(), task.info).eval()
    with torch.no_grad():
        torch.testing.assert_close(module(images), artifact.predict(images), rtol=1e-4, atol=1e-4)


def test_check_wants_the_networks_classes(task: Task, artifact: Artifact) -> None:
    """A task with another number of classes is refused before anything is computed."""
    other = evolve(artifact, task=evolve(task.info, classes=("a", "b"), origins=("d:0", "d:1")))
    stage = export(Pickled())
    assert stage.check(task, {"source": artifact}, Plugins()) == []
    assert [str(problem) for problem in stage.check(task, {"source": other}, Plugins())] == [
        "from: must tell apart the task's classes stripe 0, stripe 1, stripe 2; it knows a, b"
    ]
    options = {"meta_learner": {"use": "maml"}, "episodes": {"ways": 3, "shots": 1, "queries": 5}}
    assert stage.check(task, {"source": evolve(other, adapter_options=options)}, Plugins()) == []
    options["episodes"] = {"ways": 5, "shots": 1, "queries": 5}
    (problem,) = stage.check(task, {"source": evolve(other, adapter_options=options)}, Plugins())
    assert "the test split must have at least ways = 5 classes, it has 3" in str(problem)


def test_a_meta_learnt_network_is_adapted_first(
    task: Task, make_context: MakeContext, plugins: Plugins, tmp_path: Path
) -> None:
    """It is taught one test episode; the file names those classes, in the order of its outputs, and is proved
    on all test images but the support.
    """
    names = tuple(f"row {i}" for i in range(6))
    info = TaskInfo("rows", names, tuple(f"rows:{i}" for i in range(6)), (1, 8, 8), (0.3,), (0.25,))
    test = evolve(task.test, labels=task.test.labels + 3)  # type: ignore[type-var, call-arg]
    few = Task(info, task.train, task.validation, test)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6))
    with validators.disabled():
        meta = MetaStage(
            name="meta",
            method=plugins.load("meta-learner", "maml")(),
            episodes=EpisodeShape(3, 3, 5),
            iterations=60,
            tasks=4,
            learning_rate=1e-2,
            engine="vmap",
            validation_episodes=0,
            test_episodes=4,
        )
    learnt = meta.run(few, {"source": from_module(network, info)}, make_context(None))
    found = export(Pickled()).run(few, {"source": learnt}, make_context())
    assert sorted(found.metrics["classes"]) == ["row 3", "row 4", "row 5"]
    assert json.loads((tmp_path / "model.json").read_text())["classes"] == found.metrics["classes"]
    assert found.metrics["images"] == len(few.test) - 9  # all but the support
    assert found.adapter_options == {}
    with pytest.raises(Exception, match="only what a `meta` stage made can adapt"):
        adapt_artifact(found, torch.zeros(3, 1, 8, 8), torch.arange(3), plugins)
    # of all test images, named by the file, most get the name of their own row
    scores = MODULES["model.bin"](few.test.images)  # type: ignore[attr-defined]
    told = [found.metrics["classes"][k] for k in scores.argmax(1).tolist()]
    right = [name == names[label] for name, label in zip(told, few.test.labels.tolist(), strict=True)]
    assert sum(right) / len(right) > 0.7
    assert found.metrics["test_accuracy"] > 0.7


def test_an_operation_that_an_exporter_lacks_is_named(task: Task, make_context: MakeContext) -> None:
    """In one line, with another exporter that has it, instead of the pages that a library prints."""
    layers = nn.Conv2d(1, 4, 3, padding=1), nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(36, 3)
    given = {"source": from_module(nn.Sequential(*layers), task.info)}
    stage = ExportStage(name="export", method=load_method("exporter.onnx")())
    with pytest.raises(StageError) as caught:
        stage.run(task, given, make_context(None))
    assert "Onnx cannot write this network: DispatchError: No ONNX function found" in str(caught.value)
    assert "aten.adaptive_max_pool2d" in str(caught.value)
    stage = evolve(stage, method=load_method("exporter.torch-export")())
    assert stage.run(task, given, make_context(None)).metrics["agreement"] == 1.0
