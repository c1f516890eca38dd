"""Comparisons that train networks, each with the settings of one stage of a recipe."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import evolve, frozen

from learnforge.artifact import Artifact, load_artifact
from learnforge.check import resolve_inputs
from learnforge.context import Context, Progress, choose_device
from learnforge.errors import Problem, RecipeError
from learnforge.files import remove
from learnforge.fingerprints import model_print
from learnforge.kinds.model import Model
from learnforge.kinds.task import Task, TaskSource
from learnforge.options.structure import plain
from learnforge.plugins.identity import core_version, identify
from learnforge.plugins.registry import Plugins
from learnforge.recipe import Recipe, parse_recipe
from learnforge_kit.training.settings import Train
from learnforge_plugins.commands.bench.comparison import Comparison, Job

_TASKS: dict[str, Task] = {}


def load_task(source: TaskSource) -> Task:
    """Read a task, once in a process."""
    key = repr(source)
    if key not in _TASKS:
        _TASKS[key] = source.load()
    return _TASKS[key]


@frozen(eq=False, kw_only=True)
class StageComparison(Comparison):
    """A comparison whose entries run the same stage.

    Args:
        stage: The stage, its method left open.
        task: The task.
        folder: Keeps results, what they share and what is in training.
        device: Where networks are trained, as torch spells it.
    """

    stage: Any
    task: TaskSource
    folder: Path
    device: str = "cpu"

    result: ClassVar[type]
    """The class of its results."""

    shared: ClassVar[str] = ""
    """The input that is trained once for all entries."""

    @property
    def environment(self) -> dict[str, Any]:
        """What the results of every stage depend on."""
        versions = {"core": core_version(), "torch": torch.__version__}
        return {**versions, "task": self.load_task().content, "device": self.device}

    @property
    def inputs(self) -> dict[str, Artifact]:
        """The networks that the stage names."""
        recipe: Any = Recipe(None, self.task, (self.stage,), {})  # type: ignore[arg-type]
        return resolve_inputs(self.stage, 0, recipe, self.load_task(), {})

    @property
    def ready_inputs(self) -> dict[str, Artifact]:
        """The same, trained where they were to be."""
        folder = self.shared_folder
        return {**self.inputs, **({self.shared: load_artifact(folder)} if folder else {})}

    def input_print(self, role: str) -> Any:
        """Return what an input is: a model's options and code, or an artifact's content."""
        reference = self.stage.describe_inputs()[role]
        return model_print(reference) if isinstance(reference, Model) else self.inputs[role].content

    def load_task(self) -> Task:
        """Read the task, once in a process."""
        return load_task(self.task)

    def load_result(self, data: Mapping[str, Any]) -> Any:
        return self.result(**data)

    def clean(self) -> None:
        shutil.rmtree(self.folder / "training", ignore_errors=True)

    @contextmanager
    def job_context(self, job: Job, plugins: Plugins, **more: Any) -> Iterator[Context]:
        """Give a job its context, whose checkpoints go when it is done; one that was cut off goes on from
        them, if they were made under equal conditions.
        """
        words = [job.entry.key, *job.case, job.seed, job.conditions[:16]]
        folder = self.folder / "training" / "-".join(map(str, words))
        yield Context(job.entry.name, job.seed, torch.device(self.device), plugins, folder, **more)
        remove(folder)

    def prepare(self, plugins: Plugins, progress: Progress) -> None:
        """Train what all entries share, once, on one thread, and keep it in its folder."""
        folder = self.shared_folder
        if folder is None or (folder / "artifact.json").exists():
            return
        context = Context(self.shared, 0, torch.device(self.device), plugins, folder, progress=progress)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            artifact = self.train_shared(context)
        finally:
            torch.set_num_threads(threads)
        artifact.save(folder)
        context.clear_checkpoints()

    @property
    def shared_folder(self) -> Path | None:
        """Where the network is kept that is trained once for all entries, another one in another folder; None
        where there is none.
        """
        return None

    def train_shared(self, context: Context) -> Any:
        """Train the network that all entries share, and return it as an artifact."""
        raise NotImplementedError


def judged_task(task: Task, is_final: bool) -> Task:
    """Return a task whose test split is the one to judge on: without `is_final` its validation split."""
    if is_final:
        return task
    task, episodes = evolve(task, test=task.validation), task.episodes
    if episodes is None:
        return task
    splits = {"test": "validation"}
    return evolve(task, episodes=lambda split, *rest: episodes(splits.get(split, split), *rest))


def stage_table(
    kind: str,
    recipe: Mapping[str, Any],
    changes: Mapping[str, Any],
    methods: Mapping[str, str],
    plugins: Plugins,
) -> dict[str, Any]:
    """Return the table of a recipe's first stage of a kind, with changes; the recipe's task by default.

    Args:
        kind: Kind of the stage.
        recipe: A recipe's data; may be empty where `changes` say everything.
        changes: Keys that replace the stage's.
        methods: {key: kind of method that it takes}; names of those become tables, `conv4` becomes
            `{ use = "conv4" }`. What is no such name stays, such as an artifact's folder.
        plugins: Know the names.
    """
    stages = [table for table in recipe.get("stage", ()) if table.get("kind") == kind]
    first = stages[0] if stages else {}
    table = {"task": recipe.get("task"), **first, **changes, "kind": kind, "name": kind}
    for key, method in {"task": "task", **methods}.items():
        value = table.get(key)
        if isinstance(value, str) and (method == "task" or value in plugins.names(method)):
            table[key] = {"use": value}
    return table


def require(table: Mapping[str, Any], keys: Sequence[str], hint: str) -> None:
    """Refuse a table that lacks keys; `hint` says how to give one."""
    refuse([Problem(key, f"is missing; {hint.format(key)}") for key in keys if not table.get(key)])


def refuse(problems: Sequence[Problem], where: str = "bench") -> None:
    """Raise an error of the problems, if there are any."""
    if problems:
        raise RecipeError(list(problems), where)


def parse_stage(table: Mapping[str, Any], plugins: Plugins) -> tuple[Recipe, Any, TaskSource]:
    """Parse a stage's table, and return it as a recipe, and stage and task alone."""
    rest = {key: value for key, value in table.items() if key != "task"}
    data = {"run": {"name": "bench"}, "task": table["task"], "stage": [rest]}
    recipe = parse_recipe(data, plugins, "bench")
    (stage,) = recipe.stages
    return recipe, stage, recipe.task_of(stage)


def find_ranges(stage: Any, prefix: str = "") -> list[Problem]:
    """List the settings of a stage that are ranges to search, of which a comparison has none."""
    return [Problem(prefix + path, "must be a value here, it is a range") for path in stage.ranges]


def read_device(recipe: Mapping[str, Any]) -> str:
    """Return the device of a recipe, as torch spells it."""
    return str(choose_device(recipe.get("run", {}).get("device", "auto")))


def train_print(settings: Train | None) -> Any:
    """Return what a training depends on beside network and data: its settings, and an optimizer's code."""
    return plain(settings, lambda part: repr(identify(part)))
