"""A stage some of whose options are ranges: a search over them on validation data, then the stage with
the best.

A trial is the stage itself, without its baseline, on a task whose test split is the validation split: the
test split is not read before the options are chosen.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import evolve, frozen
from torch import nn

from learnforge.artifact import Artifact, from_model
from learnforge.context import Context
from learnforge.errors import LearnforgeWarning, Problem, StageError, nearest
from learnforge.hookspecs import hookimpl
from learnforge.kinds.cost import COSTS
from learnforge.kinds.model import Model
from learnforge.kinds.space import Design, Pick, Space
from learnforge.kinds.stage import Stage
from learnforge.kinds.task import Task
from learnforge.kinds.tuner import OpenStage, Tuner
from learnforge.options.filling import set_options
from learnforge.options.ranges import Range, Tune
from learnforge.randomness import seeded
from learnforge.spec import TaskInfo
from learnforge_kit.costs.measuring import measure_cost, measure_latency
from learnforge_kit.search.pareto import best_first
from learnforge_plugins.stages.measured import Trials
from learnforge_plugins.stages.search.driver import search_designs
from learnforge_plugins.stages.search.objective import (
    Objective,
    Place,
    Refused,
    TrialJob,
    TrialResult,
    refusal_of,
)
from learnforge_plugins.stages.search.record import Goal
from learnforge_plugins.stages.search.stage import check_sampler


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
class StageObjective(Objective):
    """Runs a stage with a design in the place of what it leaves open.

    Args:
        work: The stage, and what is open.
        seed: Seed of the stage, which all trials share.
        wanted: Objectives and limits.
        cache_folder: See `Context`; what trials share.
        threads: CPU threads of a trial.
    """

    work: OpenStage
    seed: int
    wanted: tuple[str, ...]
    cache_folder: Path | None = None
    threads: int = 1

    @property
    def space(self) -> Space:  # type: ignore[override]
        return self.work.space

    def predict_costs(self, design: Design, context: Context) -> Iterator[Mapping[str, float]]:
        """Yield the costs of the network that the stage will hand on, where its settings alone say which
        that is.
        """
        try:
            with torch.device("meta"):
                network = self._network(design, context)
                cost = measure_cost(network, self.work.task.info) if network is not None else None
        except Exception as error:  # settings that do not go together must not end the search
            raise refusal_of(error, f"{type(error).__name__}: {error}") from error
        yield cost.as_metrics() if cost is not None else {}
        if cost is not None and not isinstance(self.work.space, OptionSpace):
            vetoed = context.plugins.hook.learnforge_vet_design(design=design, cost=cost, stage=context.stage)
            if vetoed:
                raise Refused(str(vetoed))

    def _arranged(self, design: Design) -> tuple[Stage, Mapping[str, Artifact]]:
        work = self.work
        return work.arrange(work.stage, work.task, work.inputs, design)

    def _network(self, design: Design, context: Context) -> nn.Module | None:
        """Build the network that the stage will hand on, with fresh weights, where its settings say which
        that is.
        """
        stage, inputs = self._arranged(design)
        made = stage.output(self.work.task, inputs)
        if made.module is not None or (made.spec.kind == "space" and made.spec.design is None):
            return None
        return made.spec.build(made.task, context.plugins, False)

    @property
    def measured_once(self) -> Sequence[str]:  # type: ignore[override]
        return ("latency_ms",) if "latency_ms" in self.wanted else ()

    def measure(self, name: str, design: Design, context: Context) -> float:
        """Measure the latency of the network with fresh weights, while no trial runs."""
        with seeded(self.seed):
            network = self._network(design, context)
        assert network is not None, (
            "`SearchTuner.check` refuses latency where the network is not known beforehand"
        )
        return measure_latency(network.to(context.device), self.work.task.info, threads=self.threads)

    def evaluate(self, job: TrialJob, place: Place) -> TrialResult:
        start = time.perf_counter()
        stage, inputs = self._arranged(job.design)
        stage = stage.for_trial()
        task = evolve(self.work.task, test=self.work.task.validation)
        context = Context(
            stage=f"{self.work.stage.name} trial {job.number}",
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
        missing = [name for name in self.wanted if name not in found and name not in self.measured_once]
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


@frozen
class SearchTuner(Tuner):
    """Searches by any searcher, with the search driver: limits, duplicates, parallel trials, resume."""

    def check(self, stage: Stage, task: TaskInfo) -> list[Problem]:
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
                "there is no range; write { low = …, high = … } or { choices = […] } in the place of an "
                "option"
            )
            return [Problem("tune", words)]
        problems = self.check_settings(tune, "tune", OptionSpace(stage.ranges), stage.judged_by(task))
        if stage.kind == "search" and "latency_ms" in (*Goal(1, tune.objectives, {}).metrics, *tune.limits):
            words = (
                "a search's network is not known beforehand; give the stage itself "
                "`limits = { latency_ms = … }`"
            )
            problems.append(Problem("tune", words))
        return problems

    def check_settings(
        self, settings: Tune, path: str, space: Space, measures: Sequence[str]
    ) -> list[Problem]:
        known = (*measures, *COSTS)
        goal = Goal(1, settings.objectives or tuple(measures[:1]), {})
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

    def run(self, stage: Stage, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        assert stage.tune is not None, "the runner asks only for stages with ranges"
        space, settings = OptionSpace(stage.ranges), stage.tune
        stage, inputs = stage.prepare(task, inputs, context)
        work = OpenStage(stage, task, inputs, space, with_options, "options")
        best, found = self.search(work, settings, context)
        chosen, known = with_options(stage, task, inputs, best)
        artifact = chosen.run(task, known, context)
        return evolve(artifact, metrics={**artifact.metrics, "tuned": {"options": best, **found}})

    def search(self, work: OpenStage, settings: Tune, context: Context) -> tuple[Design, dict[str, Any]]:
        objectives = settings.objectives or tuple(work.stage.judged_by(work.task.info)[:1])
        goal = Goal(settings.trials, objectives, settings.limits, settings.batch)
        wanted = tuple(dict.fromkeys([*goal.metrics, *goal.limits]))
        objective = StageObjective(work, context.seed, wanted, context.cache_folder, settings.threads)
        records, history = search_designs(
            f"{work.stage.name} {work.name}",
            goal,
            objective,
            settings.searcher,
            evolve(context, executor=settings.executor or context.executor),
            context.derive("tune"),
            threads=settings.threads,
            file=f"{work.name}.db",
        )
        values = [[record.metrics[name] for name in goal.metrics] for record in records]
        first = best_first([row[:1] for row in values], goal.directions[:1])[0]
        name = type(settings.searcher).__name__
        found = Trials.counted(objectives, history, searcher=name)
        return records[first].design, found.as_metrics()


@hookimpl
def learnforge_tuners() -> dict[str, type[Tuner]]:
    """Offer the tuner `search`."""
    return {"search": SearchTuner}
