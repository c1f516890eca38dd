"""A stranger's form of tasks, and a task of a built-in one: trained, killed, continued and exported."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests.outside.test_methods import KILLER, METHODS, install, learnforge

PIXELS = """
[run]
name = "pixels"
device = "cpu"

[task]
use = "arrays"
file = "pixels.npz"
form = "segmentation"
classes = ["ground", "disc"]

[[stage]]
kind = "distill"
use = "fitnet"
options = { weight = 0.1 }
teacher = { use = "fcn", width = 16 }
teacher_train = { epochs = 12, batch_size = 8, learning_rate = 0.01 }
student = { use = "fcn", width = 4 }
train = { epochs = 12, batch_size = 8, learning_rate = 0.01 }

[[stage]]
kind = "transfer"
use = "fine-tune"
train = { epochs = 6, batch_size = 8, learning_rate = 0.01, weights = "best" }

[[stage]]
kind = "export"
use = "torch-export"
"""
PHOTOS = """
[run]
name = "photos"
device = "cpu"

[task]
use = "multi-label-photos"
root = "photos"
size = 12

[[stage]]
kind = "search"
use = "random"
trials = 3
space = { use = "mlp", max_width = 64 }
train = { epochs = 4 }

[[stage]]
kind = "export"
use = "onnx"
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed, data, recipes and a plugin that kills its process."""
    folder = tmp_path_factory.mktemp("forms")
    install(METHODS, folder / "site")
    rng = np.random.default_rng(0)
    across, down = np.meshgrid(np.arange(12), np.arange(12))
    centres = rng.integers(3, 9, (120, 2))
    discs = np.array([(across - x) ** 2 + (down - y) ** 2 <= 9 for x, y in centres])
    noisy = (150 * discs[:, None] + rng.integers(0, 100, (120, 1, 12, 12))).astype(np.uint8)
    np.savez(folder / "pixels.npz", x=noisy, y=discs.astype(np.int64))
    photos = folder / "photos"
    photos.mkdir()
    with (photos / "labels.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(("file", "labels"))
        for number in range(150):
            pixels, labels = rng.integers(0, 120, (12, 12, 3)).astype(np.uint8), []
            for place, name in enumerate(("blue", "green", "red")):
                if rng.random() < 0.5:
                    pixels[:, 4 * place : 4 * place + 4, place] = 230
                    labels.append(name)
            Image.fromarray(pixels).save(photos / f"{number}.png")
            rows.writerow((f"{number}.png", " ".join(labels)))
    (folder / "pixels.toml").write_text(PIXELS)
    (folder / "photos.toml").write_text(PHOTOS)
    (folder / "killer.py").write_text(KILLER)
    return folder


@pytest.fixture(scope="module")
def whole(site: Path) -> Path:
    """Uninterrupted runs of both recipes."""
    for name in ("pixels", "photos"):
        learnforge(site, "run", f"{name}.toml", "--plugin", "killer.py", "--run", f"runs/{name}")
    return site / "runs"


def test_pixels_are_told_apart(whole: Path) -> None:
    """By the form's own measures, in metrics, history and report; the file gives what the network does."""
    found = {
        name: json.loads((whole / "pixels" / name / "metrics.json").read_text())
        for name in ("distill", "transfer", "export")
    }
    for name in ("distill", "transfer"):
        assert list(found[name]["test_measures"]) == ["miou", "pixel_accuracy"]
        assert found[name]["test_measures"]["miou"] > 0.85
        assert "test_accuracy" not in found[name]
    assert "miou" in found["distill"]["history"]["student"][-1]
    assert found["export"]["agreement"] == 1.0
    report = (whole / "pixels" / "report.md").read_text()
    assert "test miou" in report
    assert "where its teacher gets miou" in report
    manual = json.loads((whole / "pixels" / "export" / "model.json").read_text())
    assert (manual["form"], manual["output"]["axes"]) == (
        "segmentation",
        ["batch", "class", "axis 2", "axis 3"],
    )


@pytest.mark.parametrize("moment", [3, 18, 38])
def test_a_killed_run_ends_with_the_same_bits(site: Path, whole: Path, moment: int) -> None:
    """Killed while the teacher, the student and the transferred network learn."""
    arguments = ["run", "pixels.toml", "--plugin", "killer.py", "--run", f"runs/killed-{moment}"]
    learnforge(site, *arguments, want=9, KILL_AT=str(moment))
    learnforge(site, *arguments)
    for name in ("distill", "transfer"):
        first, second = (
            load_file(folder / name / "weights.safetensors")
            for folder in (whole / "pixels", site / f"runs/killed-{moment}")
        )
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items()), name


def test_several_labels_are_found_and_told(site: Path, whole: Path) -> None:
    """The search is for the mean average precision, and `predict` gives a probability for each label."""
    metrics = json.loads((whole / "photos" / "search" / "metrics.json").read_text())
    assert metrics["objectives"] == ["map"]
    assert metrics["test_measures"]["map"] > 0.95
    for source in ("search", "export/model.onnx"):
        done = learnforge(site, "predict", f"runs/photos/{source}", "photos/0.png", "photos/1.png")
        rows = list(csv.DictReader(done.stdout.splitlines()))
        assert list(rows[0]) == ["file", "blue", "green", "red"]
        assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("blue", "green", "red"))


def test_a_space_of_other_outputs_is_refused(site: Path) -> None:
    """Networks that give a list of numbers are none for pixels, which the check finds."""
    stage = 'kind = "search"\nuse = "random"\ntrials = 2\nspace = { use = "mlp" }\n'
    (site / "list.toml").write_text(PIXELS.partition("[[stage]]")[0] + "[[stage]]\n" + stage)
    done = learnforge(site, "check", "list.toml", want=2)
    assert "space: its networks must give outputs [batch, 2, 12, 12], it gives [batch, 2]" in done.stderr


def test_both_keep_their_duties(site: Path) -> None:
    """The form, its network and the task pass their suites."""
    for name, *options in (
        ("form.segmentation",),
        ("model.fcn",),
        ("task.multi-label-photos", "--set", "root=photos", "--set", "size=12"),
    ):
        done = learnforge(site, "conformance", name, *options)
        assert " 0 failed" in done.stdout
