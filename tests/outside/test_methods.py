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
TWINS = Path(__file__).parent / "twins"
RECIPE = """
[plugins]
enable = ["hide-rows"]

[plugins.hide-rows]
rows = 2

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
train = { epochs = 4, weights = "best", learning_rate = 0.05, optimizer = { use = "sam", rho = 0.02 } }

[[stage]]
kind = "prune-channels"
name = "prune"

[[stage]]
kind = "transfer"
use = "side-tuning"
task = { use = "digits", classes = [6, 8, 9], labels_per_class = 10 }
train = { epochs = 4, batch_size = 16, learning_rate = 3e-4, optimizer = "lion" }

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
    install(METHODS, folder / "site")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "killer.py").write_text(KILLER)
    return folder


def install(package: Path, folder: Path) -> None:
    """Install a package into a folder."""
    words = "-m pip install -q --no-deps --no-index --no-build-isolation --target"
    subprocess.run([sys.executable, *words.split(), str(folder), str(package)], check=True)


def learnforge(
    site: Path, *arguments: str, want: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line where the package is installed."""
    path = os.pathsep.join(str(site / name) for name in ("site", "twins"))  # the second is there for one test
    settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "learnforge", *arguments]
    done = subprocess.run(command, cwd=site, env=settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == want, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(site: Path) -> Path:
    """An uninterrupted run."""
    learnforge(site, "run", "recipe.toml", "--plugin", "killer.py", "--run", "runs/whole")
    return site / "runs/whole"


@pytest.fixture(scope="module")
def support(site: Path) -> str:
    """A folder of three classes with three images each."""
    for number, name in enumerate(("one", "two", "three")):
        (site / "support" / name).mkdir(parents=True)
        for copy in range(3):
            picture = torch.zeros(8, 8, dtype=torch.uint8)
            picture[2 * number + 1 : 2 * number + 3, copy:] = 255
            Image.fromarray(picture.numpy()).save(site / "support" / name / f"{copy}.png")
    return "support"


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


def test_another_process_predicts_and_adapts(site: Path, finished: Path, support: str) -> None:
    """Every artifact and file is of use where nothing but the package is known."""
    for source in ("distill", "prune", "transfer", "export/model.pt2", "matching-file/model.pt2"):
        done = learnforge(site, "predict", f"runs/whole/{source}", support, "--trust")
        assert done.stdout.count(".png") == 9, done.stdout
    for source in ("adapters", "matching"):
        learnforge(site, "adapt", f"runs/whole/{source}", "--support", support, "--to", f"taught-{source}")
        done = learnforge(site, "predict", f"taught-{source}", support)
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


def test_the_package_is_conformant(site: Path) -> None:
    """The suites pass for all that it brings but a task of photos, which `test_forms.py` gives it."""
    done = learnforge(site, "conformance", "outside-methods", want=1)
    words = "outside-methods: 23 of 24 plugins are conformant; not task.multi-label-photos"
    assert done.stdout.splitlines()[-1] == words


def test_options_of_hooks_count(site: Path, finished: Path) -> None:
    """Other options of a plugin make other stages: the run with the old ones is not continued by mistake."""
    record = json.loads((finished / "run.json").read_text())
    assert record["plugins"]["wishes"][0]["settings"] == {"hide-rows": {"rows": 2}}
    words = ["run", "recipe.toml", "--plugin", "killer.py", "--run", "runs/whole"]
    done = learnforge(site, *words, "--set", "plugins.hide-rows.rows=3", want=1)
    assert "changed" in done.stderr
    done = learnforge(site, "run", "recipe.toml", "--set", "plugins.hide-rows.row=3", want=2)
    assert "plugins.hide-rows.row: unknown option; did you mean 'rows'?" in done.stderr


def test_a_package_with_the_same_names_breaks_nothing(site: Path, finished: Path, support: str) -> None:
    """Bare names stay learnforge's own, with a warning; of two strangers one has to be chosen; what is saved
    is built as it was.
    """
    install(TWINS, site / "twins")
    done = learnforge(site, "predict", "runs/whole/distill", support)
    assert done.stdout.count(".png") == 9
    recipe = site / "twins.toml"
    recipe.write_text(RECIPE.partition('[[stage]]\nkind = "prune')[0].replace('"simkd"', '"kd"'))
    done = learnforge(site, "run", "twins.toml", "--run", "runs/own")
    assert "distiller 'kd' is learnforge's own, not outside-twins:distiller.kd" in done.stderr
    spec = json.loads((site / "runs/own/distill/artifact.json").read_text())["spec"]
    assert spec["table"]["use"] == "conv4"
    assert "blocks" in spec["table"]
    done = learnforge(site, "check", "recipe.toml", want=2)
    words = "distiller 'simkd' is brought by outside-methods 1.0 and outside-twins 1.0; write"
    assert words in done.stderr
    recipe.write_text(recipe.read_text().replace('"kd"', '"outside-twins:simkd"'))
    learnforge(site, "run", "twins.toml", "--run", "runs/twin")
    done = learnforge(site, "conformance", "outside-twins")
    assert done.stdout.splitlines()[-1] == "outside-twins: 3 of 3 plugins are conformant"


def test_a_missing_package_is_named(site: Path, finished: Path, support: str) -> None:
    """Where the artifact or the recipe knows who brought a method, the error says what to install."""
    spec = json.loads((finished / "distill/artifact.json").read_text())["spec"]
    assert spec["owners"] == {"change.handed-on-head": "outside-methods"}
    done = learnforge(site, "predict", "runs/whole/distill", support, want=1, PYTHONPATH="")
    assert "pip install outside-methods" in done.stderr
    recipe = site / "named.toml"
    recipe.write_text("[task]" + RECIPE.partition("[task]")[2].replace('"simkd"', '"outside-methods:simkd"'))
    done = learnforge(site, "check", "named.toml", want=2, PYTHONPATH="")
    assert "pip install outside-methods" in done.stderr
