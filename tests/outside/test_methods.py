"""A stranger's package whose networks differ from what their models build: installed, run, killed and
continued, used, exported, and held against the suites.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

METHODS = Path(__file__).parent / "methods"
RECIPE = """
[run]
name = "outside"
device = "cpu"

[task]
use = "digits"
classes = [0, 1, 2]

[[stage]]
kind = "distill"
use = "simkd"
teacher = { use = "conv4", width = 8, blocks = 2 }
teacher_train = { epochs = 4 }
student = { use = "conv4", width = 4, blocks = 2 }
train = { epochs = 4, weights = "best" }

[[stage]]
kind = "prune-channels"
name = "prune"

[[stage]]
kind = "transfer"
use = "side-tuning"
task = { use = "digits", classes = [6, 8, 9], labels_per_class = 10 }
train = { epochs = 4, batch_size = 16 }

[[stage]]
kind = "export"
use = "torch-export"
task = { use = "digits", classes = [6, 8, 9], labels_per_class = 10 }

[[stage]]
kind = "meta"
name = "adapters"
use = "adapted-maml"
from = { use = "conv4", width = 4, blocks = 2 }
task = { use = "digits", classes = [0, 1, 2, 6, 8, 9], rotations = 2, test_classes = [4, 7] }
episodes = { ways = 3, shots = 1, queries = 3 }
engine = "vmap"
iterations = 20
tasks = 2
validation_episodes = 20
test_episodes = 400

[[stage]]
kind = "meta"
name = "matching"
use = "matching"
from = { use = "conv4", width = 16, blocks = 2 }
task = { use = "digits", classes = [0, 1, 2, 6, 8, 9], rotations = 2, test_classes = [4, 7] }
episodes = { ways = 3, shots = 5, queries = 3 }
engine = "vmap"
iterations = 150
tasks = 4
learning_rate = 0.01
validation_episodes = 20
test_episodes = 400

[[stage]]
kind = "export"
name = "matching-file"
use = "torch-export"
from = "matching"
task = { use = "digits", classes = [0, 1, 2, 6, 8, 9], rotations = 2, test_classes = [4, 7] }
"""
KILLER = """
import os
from learnforge import hookimpl

seen = []

@hookimpl
def learnforge_epoch_finished(stage, metrics):
    seen.append(stage)
    if len(seen) == int(os.environ.get("KILL_AT", "0")):
        os._exit(9)
"""
STAGES = ("distill", "prune", "transfer", "adapters", "matching")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package installed, the recipe and a plugin that kills its process."""
    folder = tmp_path_factory.mktemp("outside")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
    ]
    subprocess.run([*install, "--target", str(folder / "site"), str(METHODS)], check=True)
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "killer.py").write_text(KILLER)
    return folder


def learnforge(
    site: Path, *arguments: str, want: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line where the package is installed."""
    settings = {**os.environ, "PYTHONPATH": str(site / "site"), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "learnforge", *arguments]
    done = subprocess.run(command, cwd=site, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == want, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(site: Path) -> Path:
    """An uninterrupted run."""
    learnforge(site, "run", "recipe.toml", "--plugin", "killer.py", "--run", "runs/whole")
    return site / "runs/whole"


def test_changes_are_data(finished: Path) -> None:
    """Each artifact names what was changed since its model built it."""
    found = {
        name: [
            change["use"]
            for change in json.loads((finished / name / "artifact.json").read_text())["spec"]["changes"]
        ]
        for name in STAGES
    }
    assert found == {
        "distill": ["handed-on-head"],
        "prune": ["handed-on-head", "narrower"],
        "transfer": ["handed-on-head", "narrower", "side-network"],
        "adapters": ["adapters"],
        "matching": [],
    }


@pytest.mark.parametrize("moment", [2, 7, 14, 21, 40])
def test_a_killed_run_ends_with_the_same_bits(site: Path, finished: Path, moment: int) -> None:
    """Killed at an epoch and continued, all stages hand on the same tensors."""
    run = f"runs/killed-{moment}"
    arguments = ["run", "recipe.toml", "--plugin", "killer.py", "--run", run]
    learnforge(site, *arguments, want=9, KILL_AT=str(moment))
    learnforge(site, *arguments)
    for name in STAGES:
        whole, own = (load_file(folder / name / "weights.safetensors") for folder in (finished, site / run))
        assert whole.keys() == own.keys()
        assert all(torch.equal(tensor, own[key]) for key, tensor in whole.items()), name


def test_another_process_predicts_and_adapts(site: Path, finished: Path) -> None:
    """Every artifact and file is of use where nothing but the package is known."""
    images = site / "support"
    for number, name in enumerate(("one", "two", "three")):
        (images / name).mkdir(parents=True, exist_ok=True)
        for copy in range(3):
            picture = torch.zeros(8, 8, dtype=torch.uint8)
            picture[2 * number + 1 : 2 * number + 3, copy:] = 255
            Image.fromarray(picture.numpy()).save(images / name / f"{copy}.png")
    for source in ("distill", "prune", "transfer", "export/model.pt2", "matching-file/model.pt2"):
        done = learnforge(site, "predict", f"runs/whole/{source}", "support")
        assert done.stdout.count(".png") == 9, done.stdout
    for source in ("adapters", "matching"):
        learnforge(site, "adapt", f"runs/whole/{source}", "--support", "support", "--to", f"taught-{source}")
        done = learnforge(site, "predict", f"taught-{source}", "support")
        assert done.stdout.count(".png") == 9, done.stdout
    spec = json.loads((site / "taught-matching/artifact.json").read_text())["spec"]
    assert spec["changes"] == [{"use": "matching-head", "images": 9}]


def test_a_rule_of_prediction_survives_the_export(finished: Path) -> None:
    """The file has the accuracy that the meta stage measured, as far as one draw of classes tells."""
    measured = json.loads((finished / "matching/metrics.json").read_text())["test"]["after"]
    exported = json.loads((finished / "matching-file/metrics.json").read_text())
    assert exported["agreement"] == 1.0
    assert exported["test_accuracy"] > measured - 0.15
    assert measured > 0.55  # of three classes


@pytest.mark.parametrize(
    "name",
    [
        "change.adapters",
        "change.handed-on-head",
        "change.matching-head",
        "change.narrower",
        "change.side-network",
        "meta-learner.adapted-maml",
        "meta-learner.matching",
    ],
)
def test_the_package_is_conformant(site: Path, name: str) -> None:
    """The suites pass for what it brings."""
    learnforge(site, "conformance", name)
