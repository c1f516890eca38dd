"""The Python API: each call is one stage, run as a recipe's stage is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.artifact import Artifact, load_artifact
from learnforge.context import Progress
from learnforge.errors import ArtifactError, Problem, RecipeError
from learnforge.kinds.model import Model
from learnforge.kinds.space import Space
from learnforge.kinds.stage import Stage
from learnforge.kinds.task import GivenTask, Task, TaskSource
from learnforge.options.structure import option_key, structure
from learnforge.plugins.choice import PluginChoice
from learnforge.plugins.registry import Plugins
from learnforge.recipe import Recipe, RunSettings, find_recipe, parse_recipe, plugin_choice, read_recipe
from learnforge.record import Run, find_artifact
from learnforge.runner import Options, offered_progress, run_recipe


def load_task(name: str, /, plugins: Plugins | None = None, **options: Any) -> Task:
    """Load a task by name, `load_task("digits", classes=[0, 1, 2])`.

    Raises:
        PluginError: There is no such task.
        RecipeError: An option is wrong.
        TaskError: The data cannot be read.
    """
    problems: list[Problem] = []
    source = (plugins or Plugins()).resolve("task", {"use": name, **options}, "task", problems)
    if not isinstance(source, TaskSource):
        raise RecipeError(problems, f"load_task({name!r})")
    return source.load()


def load_method(name: str, plugins: Plugins | None = None) -> type[Any]:
    """Return a method's class by kind and name, `load_method("distiller.kd")(temperature=2.0)`.

    Raises:
        PluginError: There is no such method.
    """
    kind, _, method = name.partition(".")
    cls: type[Any] = (plugins or Plugins()).load(kind, method)
    return cls


def load(folder: str | Path, module: nn.Module | None = None) -> Artifact:
    """Read an artifact from a stage's folder, or from a run's: what its last finished stage made.

    Args:
        folder: Such as `runs/digits/distill`, or `runs/digits`.
        module: The network, for an artifact that was made from a module of the caller's.

    Raises:
        ArtifactError: There is none, or it is damaged.
    """
    return load_artifact(find_artifact(Path(folder)), module)


def run(
    recipe: str | Path | Mapping[str, Any],
    folder: str | Path | None = None,
    *,
    workers: int = 1,
    cache: str | Path | None = None,
    overwrite: bool = False,
    plugins: PluginChoice | None = None,
    hooks: Sequence[object] = (),
    progress: Progress | None = None,
) -> Run:
    """Run a recipe: a file, a built-in recipe's name, or its data.

    Args:
        recipe: What to run.
        folder: Folder that keeps the run and goes on with it; nothing is kept without one.
        workers: Trials of a search at a time.
        cache: Folder for what runs share, such as teacher caches; `.cache` beside `folder` by default.
        overwrite: Run finished stages again where what they depend on has changed.
        plugins: Plugins to enable, to disable and to load from files; overrules the recipe's `[plugins]`.
        hooks: Objects or modules with hook implementations of the caller's own; see `Plugins.add`.
        progress: Shows what is going on; by default bars in a notebook, and nothing elsewhere.

    Raises:
        LearnforgeError: See the tree in `learnforge.errors`.
    """
    data = dict(recipe) if isinstance(recipe, Mapping) else read_recipe(find_recipe(recipe))
    loaded = Plugins(plugin_choice(data, plugins))
    for own in hooks:
        loaded.add(own)
    source = "recipe" if isinstance(recipe, Mapping) else str(recipe)
    options = _options(folder, workers, cache, progress, overwrite, loaded)
    return run_recipe(parse_recipe(data, loaded, source), loaded, options)


def search(
    task: Task | TaskSource, space: str | Space, method: Any = "evolution", **settings: Any
) -> Artifact:
    """Search an architecture; see `SearchStage` for the settings, and `run_stage` for seed, workers and run.

    Args:
        task: What to learn.
        space: A space, or its name.
        method: A searcher, or its name.
    """
    return run_stage("search", method, task, space=space, **settings)


def distill(
    teacher: Artifact | Model | nn.Module | Sequence[Artifact | Model | nn.Module],
    student: Any,
    method: Any = "kd",
    task: Task | TaskSource | None = None,
    **settings: Any,
) -> Artifact:
    """Teach a student what a teacher knows; see `DistillStage` for the settings.

    Args:
        teacher: An artifact, a model or a module, or several of them.
        student: A model, its name, an artifact or a module, or `{"search": {…}}`.
        method: A distiller, its name, or a list of several whose losses are added.
        task: What to learn; the task that the teacher was made with in this session, by default.
    """
    known = task or _task_behind(teacher[0] if isinstance(teacher, Sequence) and teacher else teacher)
    return run_stage("distill", method, known, teacher=teacher, student=student, **settings)


def transfer(
    source: Artifact | Model | nn.Module, task: Task | TaskSource, method: Any = "fine-tune", **settings: Any
) -> Artifact:
    """Carry a network to another task; see `TransferStage` for the settings."""
    return run_stage("transfer", method, task, source=source, **settings)


def meta_train(
    source: Artifact | Model | nn.Module,
    method: Any = "maml",
    task: Task | TaskSource | None = None,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    **settings: Any,
) -> Artifact:
    """Learn to learn classes from a few examples; see `MetaStage` for the settings."""
    episodes = {"ways": ways, "shots": shots, "queries": queries}
    return run_stage(
        "meta", method, task or _task_behind(source), source=source, episodes=episodes, **settings
    )


def export(
    source: Artifact, task: Task | TaskSource, method: Any = "torch-export", **settings: Any
) -> Artifact:
    """Write a network to a file in the folder `run=`, and prove it on the task's test split."""
    return run_stage("export", method, task, source=source, **settings)


def adapt(
    artifact: Artifact,
    images: Tensor,
    labels: Tensor | Sequence[int],
    plugins: Plugins | None = None,
    classes: Sequence[str] | None = None,
) -> Artifact:
    """Teach a meta-learnt artifact new classes from a few labelled images.

    Args:
        artifact: What `meta_train` or a meta stage made.
        images: uint8 [image, channel, height, width], or float in [0, 1].
        labels: int64 [image], in [0, ways); for regression float [image, output].
        plugins: Where the meta-learner is looked up; what is installed by default.
        classes: Names of the classes; there may be more or fewer than in meta-training.

    Raises:
        ArtifactError: It is not meta-learnt, or images and labels do not fit it.
    """
    try:
        targets = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"labels must be numbers, int64 [image] in [0, ways), but {error}; names go into `classes`"
        ) from error
    shown = artifact.normalise(images)
    if not artifact.adapter_options:
        raise ArtifactError("only what a `meta` stage made can adapt; this artifact has no adapter")
    plugins = plugins or Plugins()
    kind = artifact.adapter_options.get("stage", "meta")  # other kinds of stage name themselves there
    stage = plugins.load("stage", kind, Stage)
    made: Artifact = stage.adapt(artifact, shown, targets, plugins, classes)
    return made


def run_stage(
    kind: str,
    method: Any,
    task: Task | TaskSource,
    *,
    seed: int = 0,
    workers: int = 1,
    run: str | Path | None = None,
    cache: str | Path | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | None = None,
    plugins: Plugins | None = None,
    hooks: Sequence[object] = (),
    **settings: Any,
) -> Artifact:
    """Run one stage as a recipe would.

    Args:
        kind: Kind of stage.
        method: A method, its name, or a recipe's table for it.
        task: What to learn.
        seed: Seed of everything random.
        workers: Trials of a search at a time.
        run: Folder that keeps the stage and goes on with it; nothing is kept without one.
        cache: Folder for what runs share, such as teacher caches; `.cache` beside `run` by default.
        device: `auto`, or a device as torch spells it.
        overwrite: Run a finished stage again if what it depends on has changed.
        progress: Shows what is going on; by default bars in a notebook, and nothing elsewhere.
        plugins: Plugins to use; all that is installed, by default.
        hooks: Objects or modules with hook implementations of the caller's own; see `Plugins.add`.
        settings: The stage's settings, as keys in a recipe; tables may be dicts, names or objects.

    Returns:
        What the stage made.

    Raises:
        LearnforgeError: See the tree in `learnforge.errors`.
    """
    plugins = plugins or Plugins()
    for own in hooks:
        plugins.add(own)
    stage = _make_stage(kind, method, settings, plugins)
    source = task if isinstance(task, TaskSource) else GivenTask(task)
    data = {"run": {"name": kind, "seed": seed}}
    recipe = Recipe(RunSettings(kind, seed, device), source, (stage,), data, f"{kind}()")
    options = _options(run, workers, cache, progress, overwrite, plugins)
    made = run_recipe(recipe, plugins, options).artifacts[stage.name]
    return evolve(made, data=source.load())


def _make_stage(kind: str, method: Any, settings: Mapping[str, Any], plugins: Plugins) -> Stage:
    """Build a stage from settings that may be plain data, names or objects.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    cls = plugins.load("stage", kind, Stage)
    fields = {f.name: f for f in attrs.fields(cls)}
    models = plugins.names("model")
    table: dict[str, Any] = {"name": kind}
    for name, value in settings.items():
        key = option_key(fields[name]) if name in fields else name
        declared = fields[name].metadata if name in fields else {}
        if declared.get("plugin") == "task" and isinstance(value, Task):
            value = GivenTask(value)
        table[key] = _name_models(value, models) if declared.get("reference") else value
    problems: list[Problem] = []
    stage = structure(cls, table, "", problems, plugins.resolve)
    chosen = _make_method(cls, method, plugins, problems)
    if stage is None or problems:
        raise RecipeError(problems, f"{kind}()")
    made: Stage = evolve(stage, method=chosen)
    return made


def _name_models(value: Any, models: Sequence[str]) -> Any:
    """Return a reference with the names of models as tables."""
    if isinstance(value, (list, tuple)):
        return [_name_models(item, models) for item in value]
    return {"use": value} if isinstance(value, str) and value in models else value


def _make_method(cls: type[Stage], method: Any, plugins: Plugins, problems: list[Problem]) -> Any:
    if isinstance(method, (list, tuple)) and cls.method_of_many is not None:
        method = {"use": cls.method_of_many, "methods": list(method)}
    if isinstance(method, str):
        method = {"use": method}
    if isinstance(method, Mapping):
        return plugins.resolve(cls.method_kind or "", method, "method", problems)
    return method


def _task_behind(source: Any) -> Task:
    if isinstance(source, Artifact) and source.data is not None:
        return source.data
    message = "is missing; pass task=…, since only an artifact made in this session remembers its data"
    raise RecipeError([Problem("task", message)], "task")


def _options(
    folder: str | Path | None,
    workers: int,
    cache: str | Path | None,
    progress: Progress | None,
    overwrite: bool,
    plugins: Plugins,
) -> Options:
    kept, shared = (Path(path) if path is not None else None for path in (folder, cache))
    return Options(kept, workers, shared, progress or offered_progress(plugins), lambda names: overwrite)
