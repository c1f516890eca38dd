"""A stage some of whose options are ranges: a search over them on validation data, then the stage with the
best.

A trial is the stage itself, without its baseline, on a task whose test split is the validation split: the
test split is not read before the options are chosen.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from torch import nn

from learnforge.artifact import Artifact, from_model
from learnforge.context import Context
from learnforge.errors import LearnforgeWarning, Problem, StageError, nearest
from learnforge.randomness import seeded
from learnforge.space import COSTS, Design, Model, Pick, Space, measure_cost, measure_latency
from learnforge.stages.ranges import Range, Tune, set_options
from learnforge.stages.search.admission import Admission
from learnforge.stages.search.driver import Driver
from learnforge.stages.search.evaluator import Evaluator, Place, Refused, TrialJob, TrialResult
from learnforge.stages.search.pareto import best_first
from learnforge.stages.search.record import Goal
from learnforge.stages.search.stage import check_sampler
from learnforge.stages.search.storage import open_study
from learnforge.stages.search.view import SpaceView
from learnforge.stages.stage import Stage
from learnforge.task import Task, TaskInfo
from learnforge.trials import count_states, read_records


@frozen
class OptionSpace(Space):
    """The space of a stage's options; a design is {path of an option: value}.

    Args:
        ranges: {path: range}.
    """

    ranges: Mapping[str, Range]

    def design(self, pick: Pick) -> Design:
        return {path: found.pick(path, pick) for path, found in self.ranges.items()}

    def build(self, design: Design, task: TaskInfo) -> nn.Module:
        raise NotImplementedError("options are no network")


Arrange = Callable[[Stage, Task, Mapping[str, Artifact], Design], tuple[Stage, Mapping[str, Artifact]]]
"""Puts a design into a stage and its inputs; a module-level function, since workers unpickle it."""


@frozen(eq=False)
class StageEvaluator(Evaluator):
    """Runs a stage with a design in the place of what it leaves open.

    Args:
        stage: The stage.
        task: Its task.
        inputs: Its inputs.
        seed: Seed of the stage, which all trials share.
        space: What is open: options, or a network.
        arrange: Puts a design in.
        wanted: Objectives and limits.
        cache_folder: See `Context`; what trials share.
        threads: CPU threads of a trial.
    """

    stage: Stage
    task: Task
    inputs: Mapping[str, Artifact]
    seed: int
    space: Space
    arrange: Arrange
    wanted: tuple[str, ...]
    cache_folder: Path | None = None
    threads: int = 1

    def foresee(self, design: Design, context: Context) -> Iterator[Mapping[str, float]]:
        """Yield the costs of the network that the stage will hand on, where its settings alone say which
        that is.
        """
        try:
            with torch.device("meta"):
                network = self._network(design, context)
                cost = measure_cost(network, self.task.info) if network is not None else None
        except Exception as error:  # settings that do not go together must not end the search
            raise Refused(f"{type(error).__name__}: {error}") from error
        yield cost.as_metrics() if cost is not None else {}
        if cost is not None and not isinstance(self.space, OptionSpace):
            vetoed = context.plugins.hook.learnforge_vet_design(design=design, cost=cost, stage=context.stage)
            if vetoed:
                raise Refused(str(vetoed))

    def _network(self, design: Design, context: Context) -> nn.Module | None:
        """Build the network that the stage will hand on, with fresh weights, where its settings say which
        that is.
        """
        stage, inputs = self.arrange(self.stage, self.task, self.inputs, design)
        made = stage.output(self.task, inputs)
        if made.module is not None or (made.spec.kind == "space" and made.spec.design is None):
            return None
        return made.spec.build(made.task, context.plugins, False)

    @property
    def dear(self) -> Sequence[str]:  # type: ignore[override]
        return ("latency_ms",) if "latency_ms" in self.wanted else ()

    def measure(self, name: str, design: Design, context: Context) -> float:
        """Measure the latency of the network with fresh weights, while no trial runs."""
        with seeded(self.seed):
            network = self._network(design, context)
        assert network is not None, "check_tuning refuses latency where the network is not known beforehand"
        return measure_latency(network.to(context.device), self.task.info, threads=self.threads)

    def evaluate(self, job: TrialJob, place: Place) -> TrialResult:
        start = time.perf_counter()
        stage, inputs = self.arrange(self.stage, self.task, self.inputs, job.design)
        stage = stage.for_trial()
        task = evolve(self.task, test=self.task.validation)
        context = Context(
            stage=f"{self.stage.name} trial {job.number}",
            seed=self.seed,
            device=torch.device(place.slot.device),
            plugins=place.plugins,
            cache_folder=self.cache_folder,
            executor=place.plugins.load("executor", "serial")(),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LearnforgeWarning)  # the stage itself says it again
            artifact = stage.run(task, inputs, context)
        found = stage.measured(artifact.metrics)
        found.pop("latency_ms", None)  # measured beforehand, undisturbed
        missing = [name for name in self.wanted if name not in found and name not in self.dear]
        if missing:
            raise StageError(f"a {stage.kind} stage measures no {missing[0]!r}; {nearest(missing[0], found)}")
        return TrialResult(job.number, found, time.perf_counter() - start)


def with_options(
    stage: Stage, task: Task, inputs: Mapping[str, Artifact], design: Design
) -> tuple[Stage, Mapping[str, Artifact]]:
    """Return a stage with options in the place of its ranges, and its inputs."""
    made: Stage = set_options(evolve(stage, ranges={}, tune=None), design)
    return made, with_models(made, task, inputs)


def with_models(stage: Stage, task: Task, inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Return a stage's inputs, those that its own settings describe made anew, since a range may have
    changed them.
    """
    models = {r: from_model(m, task.info) for r, m in stage.describe_inputs().items() if isinstance(m, Model)}
    return {**inputs, **models}


def check_tuning(stage: Stage) -> list[Problem]:
    """Find what is wrong with a stage's ranges and its `tune`; paths are relative to the stage."""
    tune = stage.tune
    if tune is None and not stage.ranges:
        return []
    if tune is None:
        path = next(iter(stage.ranges))
        example = '{ searcher = "bayesian", trials = 20 }'
        words = f"is missing, and {path} is a range; say how to search it: {example}"
        return [Problem("tune", words)]
    if not stage.ranges:
        words = (
            "there is no range; write { low = …, high = … } or { choices = […] } in the place of an option"
        )
        return [Problem("tune", words)]
    problems = check_settings(tune, "tune", OptionSpace(stage.ranges))
    if stage.kind == "search" and "latency_ms" in (*Goal(1, tune.objectives, {}).metrics, *tune.limits):
        words = (
            "a search's network is not known beforehand; give the stage itself `limits = { latency_ms = … }`"
        )
        problems.append(Problem("tune", words))
    return problems


def check_settings(settings: Tune, path: str, space: Space) -> list[Problem]:
    """Find what is wrong with how a stage is to be searched.

    Args:
        settings: Searcher, objectives, limits.
        path: Path of the settings, relative to the stage.
        space: What is searched.
    """
    known = ("accuracy", *COSTS)
    goal = Goal(1, settings.objectives, {})
    problems = [
        Problem(f"{path}.objectives", f"unknown metric {name!r}; {nearest(name, known)}")
        for name in goal.metrics
        if name not in known
    ]
    problems += [
        Problem(f"{path}.limits.{name}", f"unknown cost; {nearest(name, COSTS)}")
        for name in settings.limits
        if name not in COSTS
    ]
    if not problems:
        problems += [
            Problem(f"{path}.searcher", fault.message)
            for fault in check_sampler(settings.searcher, goal.directions, space)
        ]
    if len(goal.metrics) > 1 and not settings.searcher.supports_many_objectives:
        name = type(settings.searcher).__name__
        words = f"{name} takes one objective, got {len(goal.metrics)}; choose another searcher"
        problems.append(Problem(f"{path}.objectives", words))
    return problems


def carry_out(stage: Stage, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
    """Run a stage; where options are ranges, search them first."""
    if stage.tune is None:
        return stage.run(task, inputs, context)
    space, tune = OptionSpace(stage.ranges), stage.tune
    stage, inputs = stage.prepare(task, inputs, context)
    best, told = search_stage(stage, tune, space, with_options, task, inputs, context, "options")
    chosen, known = with_options(stage, task, inputs, best)
    artifact = chosen.run(task, known, context)
    tuned = {"options": best, **describe_search(tune, told)}
    return evolve(artifact, metrics={**artifact.metrics, "tuned": tuned})


def describe_search(settings: Tune, told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a report shows of a search over a stage."""
    return {
        "searcher": type(settings.searcher).__name__,
        "objectives": list(settings.objectives),
        "history": list(told),
        **count_states(told),
    }


def search_stage(
    stage: Stage,
    settings: Tune,
    space: Space,
    arrange: Arrange,
    task: Task,
    inputs: Mapping[str, Artifact],
    context: Context,
    what: str,
) -> tuple[Design, list[dict[str, Any]]]:
    """Search what a stage leaves open; a trial is the stage itself, judged on validation data.

    Args:
        stage: The stage.
        settings: Searcher, trials, objectives, limits.
        space: What is open.
        arrange: Puts a design in.
        task: The stage's task.
        inputs: Its inputs.
        context: Its context.
        what: Names the study, and its file in the stage's folder.

    Returns:
        The best design by the first objective, and the records of all trials.
    """
    goal = Goal(settings.trials, settings.objectives, settings.limits, settings.batch)
    wanted = tuple(dict.fromkeys([*goal.metrics, *goal.limits]))
    evaluator = StageEvaluator(
        stage, task, inputs, context.seed, space, arrange, wanted, context.cache_folder, settings.threads
    )
    executor = settings.executor or context.executor
    if executor is None:
        raise StageError(f"a search of {what} needs an executor, the context has none")
    admission = Admission(goal, evaluator, context)
    view = SpaceView(space, allows=admission.allows)
    sampler = settings.searcher.sampler(context.derive("tune"), goal.directions, view)
    path = context.folder / f"{what}.db" if context.folder else None
    with open_study(path, f"{stage.name} {what}", goal.directions, sampler, goal.metrics) as study:
        records = Driver(admission, study, executor, settings.threads).run()
        values = [[record.metrics[name] for name in goal.metrics] for record in records]
        first = best_first([row[:1] for row in values], goal.directions[:1])[0]
        return records[first].design, read_records(study)
