"""What learnforge registers, and how its suites are run over it; the tests beside this file share the kinds,
so that several processes can take them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from learnforge import Plugins
from learnforge.plugins.kinds import GROUP, KINDS
from learnforge_testing.conformance import SUITES, make_suite


def kind_of(name: str) -> str:
    """Return the kind of an entry point."""
    return name.split(".", 1)[0] if "." in name else "hooks"


POINTS = [p for p in importlib.metadata.distribution("learnforge").entry_points if p.group == GROUP]
NAMES = sorted(point.name for point in POINTS)
METHODS = [name for name in NAMES if kind_of(name) in KINDS and KINDS[kind_of(name)].base]
"""All that is a class: neither commands, nor recipes, nor plugins of hooks alone."""
CHECKED = [name for name in NAMES if kind_of(name) in SUITES]
"""All whose kind has a suite."""

LAYERS = Path(__file__).parents[1] / "testing" / "layers.json"
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
    "change.cut": {"layer": "3"},
    "change.stem": {"channels": 1},
    "stage.export": {"use": "torch-export"},
}
"""Options without which a plugin cannot be made."""
NEED_DATA = {
    "task.arrays",
    "task.audio-folder",
    "task.image-folder",
    "task.omniglot",
    "task.table",
    "task.torchvision",
}
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


def of_kinds(*kinds: str) -> Any:
    """Parametrize a test over what is registered of some kinds; slow ones are of the slow tier."""
    names = [name for name in CHECKED if kind_of(name) in kinds and name not in NEED_DATA]
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in names]
    )


def keeps_its_duties(name: str, plugins: Plugins) -> bool:
    """Run a plugin's suite; none of its checks may fail, nor be expected to fail.

    Returns:
        Whether enough checks passed to mean something.
    """
    plugin = next(p for p in plugins.found if p.name == name)
    suite = make_suite(plugin, plugins, TABLES.get(name, {}))
    with ray_cluster() if name == "executor.ray" else contextlib.nullcontext():
        outcomes = list(suite.run())
    assert [f"{o.name}: {o.words}" for o in outcomes if o.state in ("failed", "expected failure")] == []
    return sum(o.state == "passed" for o in outcomes) > (5 if name in METHODS else 2)


@contextlib.contextmanager
def ray_cluster() -> Iterator[None]:
    """Start one cluster for all checks; each would start its own."""
    import ray

    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="error")
    try:
        yield
    finally:
        ray.shutdown()
