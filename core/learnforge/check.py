"""What only shows with the data: tasks that cannot be read, networks that do not fit, stages' own rules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from attrs import evolve

from learnforge.artifact import Artifact, from_model, from_module, load_artifact
from learnforge.errors import ArtifactError, LearnforgeError, Problem, RecipeError, TaskError
from learnforge.kinds.model import Model
from learnforge.kinds.stage import Reference, Stage
from learnforge.kinds.task import Task, TaskSource, check_task
from learnforge.kinds.tuner import check_ranges_of
from learnforge.plugins.identity import identify
from learnforge.plugins.registry import Plugins
from learnforge.recipe import Recipe
from learnforge.spec import trained_on


def check_recipe(recipe: Recipe, plugins: Plugins, tasks: Tasks) -> None:
    """Find what only shows with the data: tasks that cannot be read, networks that do not fit them, stages'
    own rules.

    Raises:
        RecipeError: Anything is wrong; all of it is listed. Nothing has been trained.
    """
    problems = [Problem("plugins", text) for text in plugins.gather("learnforge_missing", str)]
    stand_ins: dict[str, Artifact] = {}
    for position, stage in enumerate(recipe.stages):
        path = f"stage.{stage.name}"
        try:
            task = tasks.load(recipe.task_of(stage))
            inputs = resolve_inputs(stage, position, recipe, task, stand_ins)
        except (TaskError, ArtifactError) as error:
            problems.append(Problem(path, str(error)))
            continue
        except KeyError:
            continue  # an input's stage is itself at fault, and reported
        faults = _check_form(stage, task) + _check_models(stage, task) + stage.check(task, inputs, plugins)
        if stage.tune is not None or stage.ranges:
            faults += check_ranges_of(stage, plugins)
        problems += [evolve(fault, path=f"{path}.{fault.path}") for fault in faults]
        stand_ins[stage.name] = with_lineage(stage.output(task, inputs), task, inputs)
    if problems:
        raise RecipeError(problems, recipe.source)


class Tasks:
    """The tasks of a run, each read once."""

    def __init__(self) -> None:
        self._loaded: dict[TaskSource, Task] = {}

    def load(self, source: TaskSource) -> Task:
        """Return a source's task.

        Raises:
            TaskError: The data are missing or unusable.
        """
        if source not in self._loaded:
            try:
                task = source.load()
            except Exception as error:
                error.add_note(f"in the task {identify(source)}")
                raise
            check_task(task, task.info.name)
            self._loaded[source] = task
        return self._loaded[source]


def resolve_inputs(
    stage: Stage, position: int, recipe: Recipe, task: Task, finished: Mapping[str, Artifact]
) -> dict[str, Artifact]:
    """Turn a stage's references into artifacts.

    Raises:
        ArtifactError: A path holds no artifact.
        KeyError: A named stage is not in `finished`.
    """
    return {
        role: _resolve(reference, position, recipe, task, finished)
        for role, reference in stage.describe_inputs().items()
    }


def with_lineage(artifact: Artifact, task: Task, inputs: Mapping[str, Artifact]) -> Artifact:
    """Return an artifact that knows what it and its ancestors were trained on."""
    own = artifact.provenance.trained_on or (
        trained_on(task.info.name, task.origins_of(task.train), task.train),
    )
    entries = [entry for parent in inputs.values() for entry in parent.provenance.trained_on] + list(own)
    unique = {entry["content"]: entry for entry in entries}
    return evolve(artifact, provenance=evolve(artifact.provenance, trained_on=tuple(unique.values())))


def _resolve(
    reference: Reference, position: int, recipe: Recipe, task: Task, finished: Mapping[str, Artifact]
) -> Artifact:
    if reference is None:
        return finished[recipe.stages[position - 1].name]
    if isinstance(reference, str):
        names = [stage.name for stage in recipe.stages[:position]]
        return finished[reference] if reference in names else load_artifact(Path(reference))
    if isinstance(reference, Artifact):
        return reference
    if isinstance(reference, Model):
        return from_model(reference, task.info)
    return from_module(reference, task.info)


def _check_form(stage: Stage, task: Task) -> list[Problem]:
    if task.info.form in stage.forms:
        return []
    accepted = ", ".join(sorted(stage.forms))
    return [
        Problem(
            "task",
            f"a {stage.kind} stage takes tasks of the form {accepted}, {task.info.name} is {task.info.form}",
        )
    ]


def _check_models(stage: Stage, task: Task) -> list[Problem]:
    """Build every model that the stage names on the meta device and show it one image of its task."""
    problems = []
    for role, reference in stage.describe_inputs().items():
        if not isinstance(reference, Model):
            continue
        if task.info.form not in reference.forms:
            known = ", ".join(sorted(reference.forms))
            words = f"{type(reference).__name__} is for tasks of the form {known}, {task.info.name} is "
            problems.append(Problem(stage.input_path(role), words + task.info.form))
            continue
        try:
            reference.require()
            with torch.device("meta"), torch.no_grad(), torch.compiler.set_stance("force_eager"):
                network = reference.without_pretrained().build(task.info).eval()
                network(torch.zeros(1, *task.info.input_shape))
        except LearnforgeError as error:
            problems.append(Problem(stage.input_path(role), str(error)))
        except Exception as error:
            shape = list(task.info.input_shape)
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            problems.append(
                Problem(
                    stage.input_path(role),
                    f"the model must take images of shape {shape}, but it fails with {reason}",
                )
            )
    return problems
