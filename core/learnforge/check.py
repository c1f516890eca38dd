"""What only shows with the data: tasks that cannot be read, networks that do not fit, stages' own rules."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from attrs import evolve
from torch import Tensor

from learnforge.artifact import Artifact, from_model, from_module, load_artifact
from learnforge.errors import ArtifactError, LearnforgeError, PluginError, Problem, RecipeError, TaskError
from learnforge.kinds.form import form_of
from learnforge.kinds.model import Model
from learnforge.kinds.stage import Reference, Stage
from learnforge.kinds.task import Task, TaskSource, check_task
from learnforge.plugins.identity import FROM_FILE, identify
from learnforge.plugins.registry import Plugins
from learnforge.randomness import seeded, uncompiled
from learnforge.recipe import Recipe
from learnforge.spec import TaskInfo, trained_on


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
        faults = _check_form(stage, task) + _check_models(stage, task)
        try:
            known = {fault.path for fault in faults}
            faults += [own for own in stage.check(task, inputs, plugins) if own.path not in known]
        except Exception as error:
            if not faults:  # a stage's own check works with the models, and meets their faults again
                error.add_note(place_of(stage))
                raise
        if stage.tune is not None or stage.ranges:
            from learnforge.kinds.tuner import check_ranges_of  # most recipes need none of it

            faults += check_ranges_of(stage, task.info, plugins)
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


def place_of(stage: Stage, error: Exception | None = None) -> str:
    """Say where an error arose: the stage, and whose method it uses, unless a hook is at fault."""
    if stage.method is None or isinstance(error, PluginError):
        return f"in stage {stage.name!r}"
    identity = identify(stage.method)
    if identity.distribution == FROM_FILE:
        identity = evolve(identity, distribution=Path(inspect.getfile(type(stage.method))).name)
    return f"in stage {stage.name!r}, which uses {identity}"


def _check_form(stage: Stage, task: Task) -> list[Problem]:
    if stage.forms is None and not len(task.train):
        return [
            Problem("task", f"a {stage.kind} stage learns from a training split, {task.info.name} has none")
        ]
    name, forms = identify(stage.method).name, getattr(stage.method, "forms", None)
    takers = [("task", f"a {stage.kind} stage", stage.forms), ("use", name, forms)]
    return [Problem(key, why) for key, who, own in takers if (why := _form_fault(who, own, task.info))][:1]


def _form_fault(who: str, forms: frozenset[str] | None, task: TaskInfo) -> str:
    if forms is None or task.form in forms:
        return ""
    return f"{who} takes tasks of the form {', '.join(sorted(forms))}, {task.name} is {task.form}"


def _check_models(stage: Stage, task: Task) -> list[Problem]:
    """Build every model that the stage names, and show it two images of its task."""
    models = [(role, m) for role, m in stage.describe_inputs().items() if isinstance(m, Model)]
    faults = [(role, _model_fault(model, task)) for role, model in models]
    return [Problem(stage.input_path(role), fault) for role, fault in faults if fault]


def _model_fault(model: Model, task: Task) -> str:
    if fault := _form_fault(type(model).__name__, model.forms, task.info):
        return fault
    shape = list(task.info.input_shape)
    try:
        model.require()
        model.changes(task.info), model.content(), model.is_trained_for(task.info)
        with seeded(0), trial_device(task.info), torch.no_grad():
            network = model.without_pretrained().build(task.info).eval()
            with uncompiled():
                fault = scores_fault(network(torch.zeros(2, *shape)), task.info)
    except LearnforgeError as error:
        return str(error)
    except Exception as error:  # whatever a plugin's own code raises
        return f"the model must take images of shape {shape}, but it fails with {first_line(error)}"
    return fault and f"the model {fault}"


def trial_device(task: TaskInfo) -> torch.device:
    """Return where a network is tried before a run: the CPU for small inputs. On the meta device, for others,
    nothing is computed, but its first use imports torch's compiler, which takes longer than small networks.
    """
    return torch.device("cpu" if math.prod(task.input_shape) <= 3 * 64 * 64 else "meta")


def scores_fault(scores: object, task: TaskInfo, may_differ: bool = False) -> str:
    """Say what is wrong with a network's outputs for two images, or "".

    Args:
        scores: What it gives.
        task: What it is for.
        may_differ: Let it have another number of outputs, since it gets a new head.
    """
    form = form_of(task.form)
    first, *rest = form.outputs(task)
    what = "class scores" if form.names_one_class else "outputs"
    want = f"[{', '.join(map(str, ('batch', 'class' if may_differ else first, *rest)))}]"
    if not isinstance(scores, Tensor):
        words = f"it gives a {type(scores).__name__}"
        return f"must give one tensor of {what} {want}, {words}; wrap it in a module that gives them"
    given = list(scores.shape)
    if given != [2, *(given[1:2] if may_differ else [first]), *rest]:
        return f"must give {what} {want}, it gives [batch, {', '.join(map(str, given[1:]))}]"
    return ""


def first_line(error: Exception) -> str:
    """Return an error's type and the first line of its words."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
