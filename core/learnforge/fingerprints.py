"""What a stage's result depends on, as one hash: settings, methods' code, data, inputs, plugins and seed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from learnforge.artifact import Artifact, from_module, load_artifact
from learnforge.check import Tasks
from learnforge.files import fingerprint
from learnforge.kinds.form import form_of
from learnforge.kinds.model import Model
from learnforge.kinds.stage import Reference, Stage
from learnforge.kinds.task import Task, TaskSource
from learnforge.plugins.identity import files_read, identify, spell
from learnforge.plugins.registry import Plugins
from learnforge.randomness import derive
from learnforge.recipe import Recipe


def fingerprints(recipe: Recipe, plugins: Plugins, tasks: Tasks) -> dict[str, str]:
    """Return every stage's fingerprint, known before anything runs, since inputs count by fingerprint.

    Raises:
        TaskError: A task's data cannot be read.
        ArtifactError: A path holds no artifact.
    """
    prints: dict[str, str] = {}
    changing = [attrs.asdict(identity) for identity in plugins.changing()]
    for position, stage in enumerate(recipe.stages):
        sources = task_sources(recipe, stage)
        task = tasks.load(sources[0])
        # a stage without `from` begins with what the one above it makes
        above = prints[recipe.stages[position - 1].name] if position else ""
        prints[stage.name] = fingerprint(
            {
                **stage.fingerprint_data(),
                "seed": derive(recipe.run.seed, "stage", stage.name),
                "deterministic": recipe.run.deterministic,
                # by their content: data that changed in place count as others
                "tasks": [_task_print(source, tasks.load(source)) for source in sources],
                "changing": changing,
                "inputs": {
                    role: _input_print(reference, above, prints, task)
                    for role, reference in stage.describe_inputs().items()
                },
            }
        )
    return prints


def describe_stage(recipe: Recipe, stage: Stage) -> dict[str, Any]:
    """Return what a run's record says of a stage: every setting and option, and whose code it runs.

    Returns:
        `settings`, every default written out; `tasks` and `models` as a recipe would write them; and `code`,
        the identity of each method.
    """
    data = stage.fingerprint_data()
    sources = task_sources(recipe, stage)
    models = {role: part for role, part in stage.describe_inputs().items() if isinstance(part, Model)}
    return {
        "settings": data["settings"],
        "tasks": [spell(source) for source in sources],
        "models": {role: spell(model) for role, model in models.items()},
        "code": [*data["code"], *(attrs.asdict(identify(part)) for part in (*sources, *models.values()))],
    }


def task_sources(recipe: Recipe, stage: Stage) -> list[TaskSource]:
    """List a stage's tasks: the one it learns, then further ones."""
    own = recipe.task_of(stage)
    values = [getattr(stage, f.name) for f in attrs.fields(type(stage)) if f.metadata.get("plugin") == "task"]
    return [own, *(value for value in values if value is not None and value is not stage.task)]


def _task_print(source: TaskSource, task: Task) -> Any:
    """Return the content of a task and its form's code; one with episodes of its own counts by options and
    code too.
    """
    own = [spell(source), attrs.asdict(identify(source)), files_read(source)]
    return [task.content, attrs.asdict(identify(form_of(task.info.form))), *(own if task.episodes else ())]


def model_print(model: Model) -> Any:
    """Return what a model's network depends on: options, code, and the files that it reads."""
    return [spell(model), attrs.asdict(identify(model)), files_read(model)]


def _input_print(reference: Reference, above: str, prints: Mapping[str, str], task: Task) -> Any:
    if reference is None:
        return above
    if isinstance(reference, str) and reference in prints:
        return prints[reference]
    if isinstance(reference, Model):
        return model_print(reference)
    artifact = load_artifact(Path(reference)) if isinstance(reference, str) else reference
    return artifact.content if isinstance(artifact, Artifact) else from_module(artifact, task.info).content
