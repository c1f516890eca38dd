"""What every method that learnforge brings must keep to, tested over whatever is registered."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from learnforge import Plugins
from learnforge.plugins.kinds import GROUP, KINDS
from learnforge_testing.conformance import SUITES, WITHOUT_SUITE, make_suite

POINTS = [p for p in importlib.metadata.distribution("learnforge").entry_points if p.group == GROUP]
NAMES = sorted(point.name for point in POINTS)
METHODS = [name for name in NAMES if name.split(".")[0] in KINDS and KINDS[name.split(".")[0]].base]
"""All that is a class: neither commands, nor recipes, nor plugins of hooks alone."""
CHECKED = [name for name in NAMES if (name.split(".")[0] if "." in name else "hooks") in SUITES]
"""All whose kind has a suite."""
METHOD_FILES = sorted(
    file
    for file in (Path(__file__).parents[1] / "plugins" / "learnforge_plugins").glob("*/*.py")
    if file.name != "__init__.py"
    and file.parent.name not in ("commands", "recipes", "reports", "scripts", "stages")
)


LAYERS = Path(__file__).parent / "testing" / "layers.json"
"""What the suite's networks are made of, for the cost that looks layers up."""
TABLES: dict[str, dict[str, Any]] = {
    "cost.lookup": {"file": str(LAYERS), "missing": 0.1},
    "searcher.predictor": {"initial": 12, "candidates": 60, "parents": 3},
    "model.torchvision": {"name": "mobilenet_v3_small"},
    "model.timm": {"name": "mobilenetv3_small_050"},
    "model.weights-file": {"model": {"use": "resnet", "depth": 8}},
    "stage.search": {
        "use": "random",
        "space": {"use": "residual", "stages": 1, "blocks": 1, "max_width": 8},
        "trials": 1,
        "train": {"epochs": 1},
        "retrain": {"epochs": 1},
    },
    "task.gymnasium": {"id": "Pendulum-v1", "vary": {"g": [8.0, 12.0]}, "horizon": 5},
    "distiller.sum": {"methods": ["kd", {"use": "fitnet", "labels": 0.0}], "weights": [1.0, 0.1]},
    "stage.distill": {"use": "kd", "train": {"epochs": 1}, "teacher_train": {"epochs": 1}},
    "stage.transfer": {"use": "fine-tune", "options": {"head_epochs": 0}, "train": {"epochs": 1}},
    "stage.meta": {
        "use": "maml",
        "task": {"use": "digits", "classes": [0, 1, 2], "test_classes": [4, 7]},
        "episodes": {"ways": 2, "shots": 1, "queries": 2},
        "iterations": 2,
        "validation_episodes": 0,
        "test_episodes": 400,
    },
    "stage.export": {"use": "torch-export"},
}
"""Options without which a plugin cannot be made."""
NEED_DATA = {"task.image-folder", "task.omniglot", "task.torchvision"}
"""Their suites run on data that `tests/testing/test_task_suite.py` makes."""


SLOW = {
    "executor.processes",
    "executor.ray",
    "exporter.int8",
    "exporter.onnx",
    "meta-learner.reptile",
    "searcher.bayesian",
    "searcher.local",
    "searcher.optuna",
    "searcher.predictor",
    "searcher.rl",
    "transfer.cdan",
    "transfer.coral",
    "transfer.dann",
    "transfer.mmd",
}
"""Plugins whose suites take more than eight seconds."""


def _with_speed(name: str) -> Any:
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.mark.parametrize("name", [_with_speed(name) for name in CHECKED if name not in NEED_DATA])
def test_everything_registered_keeps_its_duties(name: str, plugins: Plugins) -> None:
    """Every plugin that learnforge brings passes the suite of its kind, and none is expected to fail."""
    plugin = next(p for p in plugins.found if p.name == name)
    suite = make_suite(plugin, plugins, TABLES.get(name, {}))
    with ray_cluster() if name == "executor.ray" else contextlib.nullcontext():
        outcomes = list(suite.run())
    assert [f"{o.name}: {o.words}" for o in outcomes if o.state in ("failed", "expected failure")] == []
    assert sum(o.state == "passed" for o in outcomes) > (5 if name in METHODS else 2)


@contextlib.contextmanager
def ray_cluster() -> Iterator[None]:
    """Start one cluster for all checks; each would start its own."""
    import ray

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()


def test_something_of_every_kind_is_registered() -> None:
    """Every kind that the core knows has at least one method, so that no suite is idle."""
    assert {name.split(".", 1)[0] for name in CHECKED if "." in name} == set(KINDS) - WITHOUT_SUITE


def test_loading_leaves_the_random_state_alone() -> None:
    """Importing every method and making it with its defaults draws nothing from a global generator."""
    script = f"""
import random, numpy, torch, attrs
import sklearn.datasets  # whose own import draws from `random`
from learnforge import Plugins

random.seed(0); numpy.random.seed(0); torch.manual_seed(0)
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
plugins = Plugins()
for name in {METHODS!r}:
    cls = plugins.load(*name.split(".", 1))
    if all(f.default is not attrs.NOTHING for f in attrs.fields(cls)):
        made = cls()
        if name == "task.digits":
            made.load()
after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
assert before == after
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", METHOD_FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_method_file_imports_no_other_method(file: Path) -> None:
    """A method's file stands alone: it imports no module of learnforge's plugins, at the top or inside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in froms if node.level] == []
    imported += [node.module or "" for node in froms]
    assert [name for name in imported if name.startswith("learnforge_plugins")] == []


def test_every_method_file_is_registered() -> None:
    """No method's file is left without an entry point."""
    modules = {point.value for point in POINTS}
    files = {f"learnforge_plugins.{file.parent.name}.{file.stem}" for file in METHOD_FILES}
    assert files <= modules
