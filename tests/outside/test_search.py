"""A stranger's evaluator of shared weights: searched with, killed and continued, vetoed, and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.outside.test_methods import KILLER, METHODS, install, learnforge

RECIPE = """
[run]
name = "oneshot"
device = "cpu"

[task]
use = "digits"
classes = [0, 1, 2]

[[stage]]
kind = "search"
use = "evolution"
options = { population = 4, tournament = 2 }
space = { use = "residual", stages = 2, blocks = 2, max_width = 32 }
evaluator = { use = "spos", supernet = { epochs = 12, batch_size = 16, learning_rate = 0.01 } }
trials = 8
batch = 4
objectives = ["accuracy", "-parameters"]
limits = { parameters = 20_000 }
retrain = { epochs = 2 }
"""
VETO = """
import os
from learnforge import hookimpl

@hookimpl
def learnforge_vet_design(design, cost):
    return "it has an even number of parameters" if cost.parameters % 2 == 0 else None

@hookimpl
def learnforge_trial_finished(stage, trial):
    if trial["number"] == int(os.environ.get("KILL_AT_TRIAL", "-1")):
        os._exit(9)
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, the recipe, and plugins that veto designs and kill their process."""
    folder = tmp_path_factory.mktemp("oneshot")
    install(METHODS, folder / "site")
    (folder / "recipe.toml").write_text(RECIPE)
    (folder / "killer.py").write_text(KILLER)
    (folder / "veto.py").write_text(VETO)
    return folder


def run(site: Path, name: str, *more: str, want: int = 0, **environment: str) -> Path:
    """Run the recipe, or go on with it."""
    words = ["run", "recipe.toml", "--plugin", "killer.py", "--plugin", "veto.py", "--run", f"runs/{name}"]
    learnforge(site, *words, *more, want=want, **environment)
    return site / "runs" / name / "search"


def trials(folder: Path) -> list[dict[str, object]]:
    """Return the trials of a search without their times."""
    history = json.loads((folder / "metrics.json").read_text())["history"]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in history]


@pytest.fixture(scope="module")
def whole(site: Path) -> Path:
    """The search, uninterrupted."""
    return run(site, "whole")


def test_designs_inherit_weights_and_are_vetted(whole: Path) -> None:
    """Untrained designs are far better than chance, and nothing that was refused was evaluated."""
    found = trials(whole)
    evaluated = [trial["metrics"] for trial in found if trial["state"] == "evaluated"]
    assert len(evaluated) == 8
    assert all(metrics["parameters"] % 2 == 1 and metrics["parameters"] <= 20_000 for metrics in evaluated)  # type: ignore[index]
    assert sum(metrics["accuracy"] > 0.8 for metrics in evaluated) > 4  # type: ignore[index]
    assert [trial["reason"] for trial in found if trial["state"] == "refused"]


def test_what_was_shared_is_kept(whole: Path) -> None:
    """The supernet's weights are in the artifact."""
    stored = load_file(whole / "weights.safetensors")
    shared = {name: tensor for name, tensor in stored.items() if name.startswith("adapter/")}
    assert len(shared) > 10
    assert all(tensor.is_floating_point() for tensor in shared.values())


@pytest.mark.parametrize(
    ("variable", "moment", "workers"),
    [("KILL_AT", "3", "1"), ("KILL_AT_TRIAL", "5", "2")],
)
def test_a_killed_search_ends_with_the_same_bits(
    site: Path, whole: Path, variable: str, moment: str, workers: str
) -> None:
    """Killed while the supernet trains, and among the trials; in one process and in two."""
    name = f"killed-{variable}-{moment}"
    run(site, name, "--workers", workers, want=9, **{variable: moment})
    again = run(site, name, "--workers", workers)
    assert trials(again) == trials(whole)
    first, second = (load_file(folder / "weights.safetensors") for folder in (whole, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


GRADIENT = """
[run]
name = "gradient"
device = "cpu"

[task]
use = "digits"
classes = [0, 1, 2]

[[stage]]
kind = "search"
use = "darts"
space = { use = "chain", layers = 3 }
trials = 3
batch = 3
limits = { parameters = 6_000 }
train = { epochs = 5 }
retrain = { epochs = 5 }
"""


def test_a_searcher_by_gradient_goes_on_where_it_was_killed(site: Path) -> None:
    """DARTS finds designs, those over the limit are refused; killed amid it ends with the same bits."""
    (site / "gradient.toml").write_text(GRADIENT)
    folders = []
    for name, moments in (("whole", ()), ("killed", ("3",))):
        words = ["run", "gradient.toml", "--plugin", "killer.py", "--run", f"runs/gradient-{name}"]
        for moment in moments:
            learnforge(site, *words, want=9, KILL_AT=moment)
        learnforge(site, *words)
        folders.append(site / f"runs/gradient-{name}" / "search")
    whole, killed = folders
    assert trials(killed) == trials(whole)
    first, second = (load_file(folder / "weights.safetensors") for folder in folders)
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["test_accuracy"] > 0.9
    judged = [trial for trial in metrics["history"] if trial["state"] == "evaluated"]
    assert 1 <= len(judged) <= 3
    assert all(trial["metrics"]["parameters"] <= 6_000 for trial in judged)
