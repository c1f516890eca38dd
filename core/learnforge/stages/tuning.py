"""A stage some of whose options are ranges: a search over them on validation data, then the stage with the
best.

A trial is the stage itself, without its baseline, on a task whose test split is the validation split: the
test split is not read before the options are chosen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import evolve, frozen
from torch import nn

from learnforge.artifact import Artifact, from_model
from learnforge.context import Context
from learnforge.errors import Problem, StageError, nearest
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


@frozen(eq=False)
class StageEvaluator(Evaluator):
    """Runs a stage with options in the place of its ranges.

    Args:
        stage: The stage.
        task: Its task.
        inputs: Its inputs.
        seed: Seed of the stage, which all trials share.
        space: The options.
        wanted: Objectives and limits.
        threads: CPU threads of a trial.
    """

    stage: Stage
    task: Task
    inputs: Mapping[str, Artifact]
    seed: int
    space: Space
    wanted: tuple[str, ...]
    threads: int = 1

    def foresee(self, design: Design, context: Context) -> Iterator[Mapping[str, float]]:
        """Yield the costs of the network that the stage will hand on, where its settings alone say which
        that is.
        """
        try:
            with torch.device("meta"):
                network = self._network(design, context)
                found = measure_cost(network, self.task.info).as_metrics() if network is not None else {}
        except Exception as error:  # settings that do not go together must not end the search
            raise Refused(f"{type(error).__name__}: {error}") from error
        yield found

    def _network(self, design: Design, context: Context) -> nn.Module | None:
        """Build the network that the stage will hand on, with fresh weights, where its settings say which
        that is.
        """
        stage = with_options(self.stage, design)
        made = stage.output(self.task, with_models(stage, self.task, self.inputs))
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
        stage = with_options(self.stage, job.design).for_trial()
        task = evolve(self.task, test=self.task.validation)
        context = Context(
            stage=f"{self.stage.name} trial {job.number}",
            seed=self.seed,
            device=torch.device(place.slot.device),
            plugins=place.plugins,
            executor=place.plugins.load("executor", "serial")(),
        )
        artifact = stage.run(task, with_models(stage, task, self.inputs), context)
        found = stage.measured(artifact.metrics)
        found.pop("latency_ms", None)  # measured beforehand, undisturbed
        missing = [name for name in self.wanted if name not in found and name not in self.dear]
        if missing:
            raise StageError(f"a {stage.kind} stage measures no {missing[0]!r}; {nearest(missing[0], found)}")
        return TrialResult(job.number, found, time.perf_counter() - start)


def with_options(stage: Stage, design: Design) -> Stage:
    """Return the stage with options in the place of its ranges."""
    made: Stage = set_options(evolve(stage, ranges={}, tune=None), design)
    return made


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
    known = ("accuracy", *COSTS)
    names = [name.removeprefix("-") for name in tune.objectives]
    problems = [
        Problem("tune.objectives", f"unknown metric {name!r}; {nearest(name, known)}")
        for name in names
        if name not in known
    ]
    problems += [
        Problem(f"tune.limits.{name}", f"unknown cost; {nearest(name, COSTS)}")
        for name in tune.limits
        if name not in COSTS
    ]
    if stage.kind == "search" and "latency_ms" in (*names, *tune.limits):
        words = (
            "a search's network is not known beforehand; give the stage itself `limits = { latency_ms = … }`"
        )
        problems.append(Problem("tune", words))
    if not problems:
        space = OptionSpace(stage.ranges)
        directions = Goal(1, tune.objectives, {}).directions
        problems += [
            Problem("tune.searcher", fault.message)
            for fault in check_sampler(tune.searcher, directions, space)
        ]
    if len(names) > 1 and not tune.searcher.supports_many_objectives:
        words = (
            f"{type(tune.searcher).__name__} takes one objective, got {len(names)}; choose another searcher"
        )
        problems.append(Problem("tune.objectives", words))
    return problems


def carry_out(stage: Stage, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
    """Run a stage; where options are ranges, search them first."""
    if stage.tune is None:
        return stage.run(task, inputs, context)
    best, told = _search(stage, stage.tune, task, inputs, context)
    chosen = with_options(stage, best)
    artifact = chosen.run(task, with_models(chosen, task, inputs), context)
    tuned = {
        "options": best,
        "searcher": type(stage.tune.searcher).__name__,
        "objectives": list(stage.tune.objectives),
        "history": told,
        **count_states(told),
    }
    return evolve(artifact, metrics={**artifact.metrics, "tuned": tuned})


def _search(
    stage: Stage, tune: Tune, task: Task, inputs: Mapping[str, Artifact], context: Context
) -> tuple[Design, list[dict[str, Any]]]:
    goal = Goal(tune.trials, tune.objectives, tune.limits, tune.batch)
    space = OptionSpace(stage.ranges)
    wanted = tuple(dict.fromkeys([*goal.metrics, *goal.limits]))
    evaluator = StageEvaluator(stage, task, inputs, context.seed, space, wanted, tune.threads)
    executor = tune.executor or context.executor
    if executor is None:
        raise StageError("a search of options needs an executor, the context has none")
    admission = Admission(goal, evaluator, context)
    view = SpaceView(space, allows=admission.allows)
    sampler = tune.searcher.sampler(context.derive("tune"), goal.directions, view)
    path = context.folder / "options.db" if context.folder else None
    with open_study(path, f"{stage.name} options", goal.directions, sampler, goal.metrics) as study:
        records = Driver(admission, study, executor, tune.threads).run()
        values = [[record.metrics[name] for name in goal.metrics] for record in records]
        first = best_first([row[:1] for row in values], goal.directions[:1])[0]
        return records[first].design, read_records(study)
