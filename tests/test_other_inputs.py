"""The whole road on inputs that are no photos: tables, searched, tuned, exported and asked, and sounds."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_wine

import learnforge as lf
from learnforge.spec import in_units
from learnforge_kit.prediction import open_predictor
from tests.plugins.tasks.test_audio_folder import fill, save, tone

pytestmark = pytest.mark.slow


def write_table(file: Path, data: np.ndarray, target: list[str], names: list[str]) -> Path:
    """Write numbers and what is to be predicted, `y`, as CSV."""
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow([*names, "y"])
        rows.writerows([*values, own] for values, own in zip(data.tolist(), target, strict=True))
    return file


def road(file: Path, form: str) -> dict[str, object]:
    """Return a recipe that searches, tunes and exports."""
    return {
        "run": {"device": "cpu"},
        "task": {"use": "table", "file": str(file), "target": "y", "form": form},
        "stage": [
            {
                "kind": "search",
                "use": "random",
                "trials": 4,
                "space": {"use": "mlp", "layers": 2, "max_width": 64},
                "train": {"epochs": 10, "batch_size": 16},
            },
            {
                "kind": "transfer",
                "name": "tuned",
                "use": "fine-tune",
                "train": {
                    "epochs": 20,
                    "batch_size": 16,
                    "weights": "best",
                    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
                },
                "tune": {"searcher": "random", "trials": 3},
            },
            {"kind": "export", "use": "onnx"},
        ],
    }


def predict(source: Path, file: Path) -> list[dict[str, str]]:
    """Ask the command line."""
    command = [sys.executable, "-m", "learnforge", "predict", str(source), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(csv.DictReader(done.stdout.splitlines()))


def test_a_table_of_numbers(tmp_path: Path) -> None:
    """Diabetes progression: R2 well above nothing in every stage, and the file gives its units."""
    data = load_diabetes(scaled=False)
    file = write_table(tmp_path / "own.csv", data.data, [str(y) for y in data.target], data.feature_names)
    run = lf.run(road(file, "auto"), tmp_path / "run")
    searched, tuned, exported = (run.artifacts[name].metrics for name in ("search", "tuned", "export"))
    assert searched["objectives"] == tuned["tuned"]["objectives"] == ["r2"]
    assert set(tuned["tuned"]["options"]) == {"train.learning_rate"}
    assert tuned["test_measures"]["r2"] > 0.3
    spread = float(np.std(data.target))
    assert tuned["test_measures"]["rmse"] < spread
    assert exported["agreement"] == pytest.approx(1.0, abs=1e-5)
    asked = [predict(tmp_path / "run" / name, file) for name in ("tuned", "export/model.onnx")]
    found = np.array([[float(row["y"]) for row in rows] for rows in asked])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    assert np.corrcoef(found[0], data.target)[0, 1] > 0.55
    assert abs(found[0].mean() - data.target.mean()) < spread / 2
    task = lf.load_task("table", file=file, target="y")
    told = run.artifacts["tuned"].predict(task.test.images)
    error = float((told - in_units(task.test.labels, task.info)).square().mean().sqrt())
    assert error == pytest.approx(tuned["test_measures"]["rmse"])
    command = [sys.executable, "-m", "learnforge", "report", str(tmp_path / "run")]
    subprocess.run(command, capture_output=True, check=True)
    report = (tmp_path / "run" / "report.md").read_text()
    assert "test r2" in report
    assert "Also on test data: rmse" in report
    assert "examples" in report
    assert "images" not in report.partition("## Provenance")[0]


def test_a_table_of_classes(tmp_path: Path) -> None:
    """Wine: accuracy as for photos, with names of the classes."""
    data = load_wine()
    kinds = [str(data.target_names[y]) for y in data.target]
    file = write_table(tmp_path / "own.csv", data.data, kinds, data.feature_names)
    run = lf.run(road(file, "classification"), tmp_path / "run")
    assert run.artifacts["tuned"].metrics["test_accuracy"] > 0.9
    rows = predict(tmp_path / "run" / "export/model.onnx", file)
    right = [row["class"] == kind for row, kind in zip(rows, kinds, strict=True)]
    assert np.mean(right) > 0.9


def test_sounds(tmp_path: Path) -> None:
    """Tones of three heights: distilled, exported to int8, and asked for WAV files."""
    root = fill(tmp_path / "data", 24)
    task = {"use": "audio-folder", "root": str(root), "rate": 8000, "seconds": 0.5, "mels": 16}
    train = {"epochs": 24, "batch_size": 16, "learning_rate": 0.01, "time_mask": 0.3}
    recipe = {
        "run": {"device": "cpu"},
        "task": task,
        "stage": [
            {
                "kind": "distill",
                "use": "kd",
                "teacher": {"use": "conv4", "width": 8, "blocks": 3},
                "teacher_train": train,
                "student": {"use": "conv4", "width": 4, "blocks": 3},
                "train": train,
            },
            {"kind": "export", "use": "int8", "largest_loss": 0.1},
        ],
    }
    run = lf.run(recipe, tmp_path / "run")
    assert run.artifacts["distill"].metrics["test_accuracy"] > 0.9
    manual = json.loads((tmp_path / "run/export/model.json").read_text())
    assert manual["preprocessing"]["use"] == "audio-folder"
    assert manual["input"] == {
        "type": "float32",
        "axes": ["batch", "axis 1", "axis 2", "axis 3"],
        "shape": [1, 16, 32],
    }
    low = save(tmp_path / "low.wav", tone(650))
    for source in ("distill", f"export/{manual['file']}"):
        (row,) = predict(tmp_path / "run" / source, low)
        assert row["class"] == "low"
    predictor = open_predictor(tmp_path / "run" / "distill", lf.Plugins())
    assert predictor.task.reading == manual["preprocessing"]


def test_new_sounds_are_learnt_from_a_few(tmp_path: Path) -> None:
    """A learner of sounds is taught by folders of WAV files, names others, and tells their features."""
    task = {
        "use": "audio-folder",
        "root": str(fill(tmp_path / "data", 12, ("a", "b", "c", "d"))),
        "rate": 8000,
        "seconds": 0.63,
        "test_classes": ["c", "d"],
    }
    stage = {
        "kind": "meta",
        "use": "protonet",
        "from": {"use": "conv4", "width": 8, "blocks": 2},
        "episodes": {"ways": 2, "shots": 2, "queries": 3},
        "iterations": 20,
        "validation_episodes": 0,
        "test_episodes": 400,
    }
    run = lf.run({"run": {"device": "cpu"}, "task": task, "stage": [stage]}, tmp_path / "run")
    assert run.artifacts["meta"].task.input_shape == (1, 40, 40)  # bands as frames, as square as a picture
    support = fill(tmp_path / "new", 3, ("deep", "shrill"))

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "learnforge", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout

    call("adapt", str(tmp_path / "run"), "--support", str(support), "--to", str(tmp_path / "taught"))
    (row,) = predict(tmp_path / "taught", save(tmp_path / "x.wav", tone(310)))
    assert row["class"] == "deep"
    call("embed", str(tmp_path / "taught"), str(support), "--to", str(tmp_path / "found.npz"))
    with np.load(tmp_path / "found.npz") as found:
        assert len(found["features"]) == len(found["files"]) == 6
