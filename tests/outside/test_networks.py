"""A stranger's distillers that train more than a student: killed, continued, used and exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.outside.test_methods import KILLER, METHODS, install, learnforge

RECIPE = """
[run]
name = "networks"
device = "cpu"

[task]
use = "digits"
classes = [0, 1, 2]

[[stage]]
kind = "distill"
name = "mutual"
use = "mutual"
teacher = { use = "conv4", width = 8, blocks = 2 }
student = { use = "conv4", width = 4, blocks = 2 }
train = { epochs = 40, learning_rate = 0.01 }

[[stage]]
kind = "distill"
name = "data-free"
use = "data-free"
options = { rate = 3e-3 }
teacher = "mutual"
student = { use = "conv4", width = 4, blocks = 2 }
train = { epochs = 150, batch_size = 32, learning_rate = 0.01 }
baseline = false

[[stage]]
kind = "export"
use = "torch-export"

[[stage]]
kind = "transfer"
name = "fixmatch"
use = "fixmatch"
from = { use = "conv4", width = 16, blocks = 2 }
options = { threshold = 0.9 }
task = { use = "digits", labels_per_class = 4, unlabelled = true }
train = { epochs = 120, batch_size = 40, learning_rate = 0.005, crop = 1 }
"""
STAGES = ("mutual", "data-free", "fixmatch")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed, the recipe and a plugin that kills its process."""
    folder = tmp_path_factory.mktemp("networks")
    install(METHODS, folder / "site")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "killer.py").write_text(KILLER)
    return folder


@pytest.fixture(scope="module")
def whole(site: Path) -> Path:
    """An uninterrupted run."""
    learnforge(site, "run", "recipe.toml", "--plugin", "killer.py", "--run", "runs/whole")
    return site / "runs/whole"


def test_both_teach(whole: Path) -> None:
    """A teacher that began with nothing knows the task; a student that saw no image nearly as well."""
    found = {name: json.loads((whole / name / "metrics.json").read_text()) for name in (*STAGES, "export")}
    assert found["mutual"]["test_accuracy"] > 0.9
    assert found["mutual"]["teacher_test_accuracy"] > 0.9
    assert found["data-free"]["test_accuracy"] > 0.9
    assert found["export"]["agreement"] == 1.0


def test_unlabelled_images_are_learnt_from(site: Path, whole: Path) -> None:
    """Forty labels and a thousand images without: the network knows much, and needs the latter."""
    assert json.loads((whole / "fixmatch" / "metrics.json").read_text())["test_accuracy"] > 0.7
    (site / "bare.toml").write_text(RECIPE.replace(", unlabelled = true", ""))
    done = learnforge(site, "check", "bare.toml", want=2)
    assert "must have unlabelled images, which fixmatch learns from" in done.stderr


@pytest.mark.parametrize("moment", [20, 120, 300])
def test_a_killed_run_ends_with_the_same_bits(site: Path, whole: Path, moment: int) -> None:
    """Killed while the teacher learns, while the generator does, and while guesses are learnt from."""
    run = f"runs/killed-{moment}"
    arguments = ["run", "recipe.toml", "--plugin", "killer.py", "--run", run]
    learnforge(site, *arguments, want=9, KILL_AT=str(moment))
    learnforge(site, *arguments)
    for name in STAGES:
        first, second = (load_file(folder / name / "weights.safetensors") for folder in (whole, site / run))
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items()), name
