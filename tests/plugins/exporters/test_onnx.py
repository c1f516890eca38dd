"""ONNX: the files of a trained network on real images, their metadata, and the script beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import learnforge as lf
from learnforge import Artifact, ArtifactError, Plugins, StageError, Task
from learnforge_kit.exported import open_arrays
from learnforge_kit.prediction import open_predictor


@pytest.fixture(scope="module")
def digits() -> Task:
    """Real images of three digits."""
    return lf.load_task("digits", classes=[0, 1, 2])


@pytest.fixture(scope="module")
def trained(digits: Task) -> Artifact:
    """A network of some size that tells them apart."""
    network = lf.load_method("model.conv4")(width=32, blocks=3)
    return lf.transfer(network, digits, train={"epochs": 8}, baseline=False)


@pytest.fixture(scope="module")
def exported(trained: Artifact, digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The stages of both exporters, and where they are."""
    folder = tmp_path_factory.mktemp("export")
    return {
        name: (lf.export(trained, digits, name, run=folder / name).metrics, folder / name / "export")
        for name in ("onnx", "int8")
    }


def test_onnx_is_the_network(exported: Any) -> None:
    """On the whole test split its scores differ by at most 1e-4 of the largest, and no class does."""
    metrics, _ = exported["onnx"]
    assert metrics["relative_difference"] <= 1e-4
    assert metrics["agreement"] == 1
    assert metrics["images"] > 80


def test_int8_is_smaller_and_loses_little(exported: Any) -> None:
    """It loses at most a point, and is less than half as large."""
    (whole, _), (small, _) = exported["onnx"], exported["int8"]
    assert small["network_accuracy"] > 0.9
    assert small["network_accuracy"] - small["test_accuracy"] <= 0.01
    assert small["bytes"] < whole["bytes"] / 2
    assert not small["is_exact"]
    assert small["relative_difference"] > 1e-4  # it is quantised


def test_int8_weights_cannot_saturate(exported: Any) -> None:
    """Two products of an 8-bit activation and a weight of at most 64 fit 16 bits."""
    metrics, folder = exported["int8"]
    tensors = onnx.load(folder / metrics["file"]).graph.initializer
    weights = [t for t in tensors if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert weights
    assert max(abs(onnx.numpy_helper.to_array(t).astype(int)).max() for t in weights) <= 64


@pytest.mark.parametrize("name", ["onnx", "int8"])
def test_a_file_alone_names_images(exported: Any, name: str, digits: Task, tmp_path: Path) -> None:
    """Taken away from its `model.json` and under another name, the file says itself how it is run; a broken
    one and one that is not learnforge's say nothing.
    """
    metrics, folder = exported[name]
    alone = tmp_path / "phone.onnx"
    alone.write_bytes((folder / metrics["file"]).read_bytes())
    images: Any = digits.test.images[:20]  # type: ignore[attr-defined]
    predictor = open_predictor(alone, Plugins())
    assert predictor.task.classes == ("0", "1", "2")
    assert predictor.task.input_shape == (1, 8, 8)
    assert torch.equal(
        predictor.score(images), open_predictor(folder / metrics["file"], Plugins()).score(images)
    )
    model = onnx.load(alone)
    del model.metadata_props[:]
    whole = alone.read_bytes()
    for foreign in (model.SerializeToString(), b"no model", whole[: len(whole) // 2], whole[:-1], b"\x08"):
        alone.write_bytes(foreign)
        with pytest.raises(ArtifactError, match=r"must be a whole file that an export stage wrote"):
            open_predictor(alone, Plugins())


@pytest.mark.parametrize("name", ["onnx", "int8"])
def test_the_manual_is_in_the_metadata(exported: Any, name: str) -> None:
    """Classes, input and preprocessing can be read from the file alone."""
    metrics, folder = exported[name]
    model = onnx.load(folder / metrics["file"])
    (found,) = [json.loads(p.value) for p in model.metadata_props if p.key == "learnforge"]
    assert found == json.loads((folder / "model.json").read_text())
    assert found["classes"] == ["0", "1", "2"]
    (batch, *rest) = model.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert [d.dim_value for d in rest] == [1, 8, 8]


@pytest.mark.parametrize("name", ["onnx", "int8"])
def test_the_script_names_an_image_without_learnforge(
    exported: Any, name: str, digits: Task, trained: Artifact, tmp_path: Path
) -> None:
    """Run by itself, it prints the class that the network gives."""
    _, folder = exported[name]
    images: Any = digits.test.images  # type: ignore[attr-defined]
    right = 0
    expected = trained.predict(images[:4]).argmax(1).tolist()
    for number in range(4):
        Image.fromarray(images[number, 0].numpy()).save(tmp_path / "image.png")
        done = subprocess.run(
            [sys.executable, "-I", folder / "run_model.py", tmp_path / "image.png"],
            capture_output=True,
            text=True,
            check=True,
        )
        label, share = done.stdout.split()
        right += label == digits.info.classes[expected[number]]
        assert 1 / 3 <= float(share) <= 1
    assert right == 4


def test_threads_are_torchs(exported: Any) -> None:
    """A loaded file computes the same with another number of threads."""
    metrics, folder = exported["onnx"]
    runtime = lf.load_method("exporter.onnx")().load(folder / metrics["file"])
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    before, threads = runtime(images), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert torch.allclose(runtime(images), before, rtol=1e-5, atol=1e-5)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["onnx", "int8"])
def test_arrays_are_scored_as_tensors_are(exported: Any, name: str) -> None:
    """What runs on numpy's arrays gives the scores of what runs on tensors."""
    metrics, folder = exported[name]
    method = lf.load_method(f"exporter.{name}")()
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    found = method.load_arrays(folder / metrics["file"])(images.numpy())
    assert torch.equal(torch.from_numpy(found), method.load(folder / metrics["file"])(images))


def test_a_missing_runtime_is_named_where_a_file_is_opened(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By who runs the file on arrays, as by who runs it on tensors."""
    metrics, folder = exported["onnx"]
    found = open_arrays(folder / metrics["file"], Plugins())
    assert found is not None
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for run in (
        lambda: found.score(np.zeros((1, 1, 8, 8), np.uint8)),
        lambda: open_predictor(folder / metrics["file"], Plugins()),
    ):
        with pytest.raises(StageError, match=r"ONNX needs onnxruntime: pip install 'learnforge\[onnx\]'"):
            run()


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra that brings it."""
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for name in ("onnx", "int8"):
        with pytest.raises(StageError, match=r"ONNX needs onnxruntime: pip install 'learnforge\[onnx\]'"):
            lf.load_method(f"exporter.{name}")().require()
