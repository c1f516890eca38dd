"""Toy searches that several files of tests run: twelve networks, some of which fail as they are told to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pytest
from attrs import evolve

from learnforge import Context, PluginChoice, Plugins, Task
from learnforge_kit import SpaceView, Train
from learnforge_kit.search.trials import read_records
from learnforge_plugins.stages.search.admission import Admission
from learnforge_plugins.stages.search.driver import Driver
from learnforge_plugins.stages.search.networks import NetworkObjective
from learnforge_plugins.stages.search.record import Goal, Record
from learnforge_plugins.stages.search.storage import open_study

MakeContext = Callable[..., Context]
QUICK = Train(epochs=1, batch_size=60, learning_rate=1e-2)

TOY = '''
"""Twelve networks of one hidden layer; three of four widths times three activations, and some that fail."""

import os
from pathlib import Path

from attrs import frozen
from torch import nn

from learnforge import Space, hookimpl

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class Fault(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def forward(self, x):
        if x.device.type == "meta" or not self.kind:
            return x
        if self.kind == "nan":
            return x * float("nan")
        if self.kind == "error":
            raise ValueError("this network does not work")
        try:
            Path(self.kind).open("x").close()
        except FileExistsError:
            return x
        os._exit(1)


@frozen
class Toy(Space):
    faults: dict[int, str] = {}

    def design(self, pick):
        return {"width": pick.integer("width", 1, 4), "act": pick.choice("act", ("relu", "tanh", "gelu"))}

    def build(self, design, task):
        layers = [nn.Flatten(), nn.Linear(64, design["width"]), ACTIVATIONS[design["act"]]()]
        fault = Fault(self.faults.get(design["width"], ""))
        if fault.kind == "unbuildable":
            raise ValueError("no such network")
        return nn.Sequential(*layers, fault, nn.Linear(design["width"], task.outputs))


@hookimpl
def learnforge_spaces():
    return {"toy": Toy}
'''


@pytest.fixture(scope="module")
def toy_plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    """Plugins with the toy space, loaded from a file as `--plugin` does."""
    file = tmp_path_factory.mktemp("plugin") / "toy_space.py"
    file.write_text(TOY)
    return Plugins(PluginChoice(files=(file,)))


@pytest.fixture
def search(
    toy_plugins: Plugins, task: Task, make_context: MakeContext
) -> Callable[..., tuple[list[Record], list[dict[str, Any]]]]:
    """Run a search of the toy space and return the evaluated records, and all told ones without times."""

    def run(
        trials: int = 5,
        objectives: tuple[str, ...] = ("accuracy",),
        limits: Mapping[str, float] | None = None,
        batch: int | None = None,
        faults: dict[int, str] | None = None,
        searcher: tuple[str, dict[str, Any]] = ("evolution", {"population": 2, "tournament": 2}),
        storage: Any = None,
        executor: str = "serial",
        plugins: Plugins = toy_plugins,
        seed: int = 7,
        train: Train = QUICK,
        goals: Mapping[str, Any] | None = None,
        objective: Mapping[str, Any] | None = None,
        folder: Path | None = None,
        **more: Any,
    ) -> tuple[list[Record], list[dict[str, Any]]]:
        space = toy_plugins.load("space", "toy")(faults or {})
        goal = Goal(trials, objectives, limits or {}, batch, **(goals or {}))
        context = evolve(make_context(folder, **more), plugins=plugins)
        method = plugins.load("searcher", searcher[0])(**searcher[1])
        wanted = frozenset([*goal.metrics, *goal.limits])
        options = {"wanted": wanted, **(objective or {})}
        networks = NetworkObjective(space, task, train, context.seed, context.stage, 1, **options)
        admission = Admission(goal, networks, context)
        sampler = method.sampler(seed, goal.directions, SpaceView(space, allows=admission.allows))
        place = plugins.load("executor", executor)()
        path = storage if isinstance(storage, Path) else None
        with open_study(path, "toy", goal.directions, sampler, goal.metrics) as study:
            if storage is not None and path is None:
                options = {"study_name": "toy", "directions": goal.directions, "load_if_exists": True}
                study = optuna.create_study(storage=storage, sampler=sampler, **options)
            records = Driver(admission, study, place, 1).run()
            return records, timeless(read_records(study))

    return run


def timeless(told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Leave the times out of records."""
    return [{key: value for key, value in entry.items() if key != "seconds"} for entry in told]
