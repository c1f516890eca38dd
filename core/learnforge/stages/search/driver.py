"""The search driver: asks an Optuna study for designs, refuses, recognises, runs and records them.

The study is the only state. What a trial was asked is stored before it runs, so trials in flight at a kill
run again with their stored choices; with `batch` set a batch is wholly asked before its first trial starts
and told in trial order at its end, so the number of workers does not change the search.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import optuna
import torch
from attrs import define, field, frozen
from optuna.trial import Trial, TrialState

from learnforge.context import Context, Executor, Slot, Tracker
from learnforge.errors import StageError
from learnforge.plugins import identify
from learnforge.randomness import seeded
from learnforge.space import Design, Space, design_key, measure_cost, measure_latency
from learnforge.stages.search.pool import Pool
from learnforge.stages.search.sampler import generator
from learnforge.stages.search.storage import Direction
from learnforge.stages.search.trial import TrialJob, TrialResult, set_up, tear_down
from learnforge.stages.search.view import SpaceView, TrialPick
from learnforge.task import Task
from learnforge.training import Train

REPEATS_BEFORE_RANDOM = 50
"""Repeated or refused designs in a row after which the driver draws an unseen random design itself."""
DRAWS_BEFORE_EXHAUSTED = 2000
"""Random designs drawn without an unseen, admissible one among them after which the space is called
exhausted.
"""


@frozen
class Goal:
    """What a search is after.

    Args:
        trials: Distinct designs to evaluate.
        objectives: Names of metrics, a minus before those to make small.
        limits: Largest allowed costs, checked before training.
        batch: Trials asked at a time; None asks whenever a worker is free.
    """

    trials: int
    objectives: tuple[str, ...]
    limits: Mapping[str, float]
    batch: int | None = None

    @property
    def directions(self) -> list[Direction]:
        """Optuna's direction of each objective."""
        return ["minimize" if name.startswith("-") else "maximize" for name in self.objectives]

    @property
    def metrics(self) -> list[str]:
        """Names of the objectives without their sign."""
        return [name.removeprefix("-") for name in self.objectives]

    @property
    def needs_latency(self) -> bool:
        """Tell whether latency must be measured."""
        return "latency_ms" in self.limits or "latency_ms" in self.metrics


@define(eq=False)
class Record:
    """What the driver knows of a trial; stored in the study as the attribute `learnforge`.

    Args:
        number: The trial's number.
        key: Key of its design.
        design: The design.
        state: `running`, `evaluated`, `failed`, `refused` or `repeat`.
        metrics: Costs, and after training accuracy and loss.
        reason: Why it failed or was refused, or which trial it repeats.
        seconds: Training time.
    """

    number: int
    key: str
    design: Design
    state: str = "running"
    metrics: dict[str, float] = field(factory=dict)
    reason: str = ""
    seconds: float = 0.0

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            name: getattr(self, name)
            for name in ("number", "key", "design", "state", "metrics", "reason", "seconds")
        }


class Driver:
    """Runs one search to its end, from wherever its study stands.

    Args:
        goal: What to search for.
        space: Where.
        task: The task, its splits on the CPU.
        train: How trials are trained.
        study: The study, with the searcher's sampler.
        context: Seed, device, executor, hooks.
        executor: Where trials run.
        threads: CPU threads of a trial.
    """

    def __init__(
        self,
        goal: Goal,
        space: Space,
        task: Task,
        train: Train,
        study: optuna.Study,
        context: Context,
        executor: Executor,
        threads: int,
    ):
        self.goal, self.space, self.task, self.train, self.study = goal, space, task, train, study
        self.context, self.executor = context, executor
        self.view = SpaceView(space)
        self.slots = [Slot(threads, str(context.device)) for _ in range(context.workers)]
        self.batch = goal.batch or (context.workers if goal.needs_latency else None)
        self.records: dict[str, Record] = {}
        self.in_flight: dict[int, tuple[Trial, Record]] = {}
        self.twins: dict[str, list[Trial]] = {}
        self.counted = 0
        self.in_a_row = 0
        self.is_exhausted = False
        self._search = f"{context.stage}/{context.seed}/{id(self)}"
        # the plugins come first: unpickling them loads the files that the other values' classes are from
        settings = (context.seed, context.stage, context.deterministic)
        self._setup = (context.plugins, self._search, space, task, train, *settings)

    def run(self) -> list[Record]:
        """Search until the goal is reached or the space is exhausted; return the evaluated designs, oldest
        first.

        Raises:
            StageError: Every design was refused by the limits, or every trial fails.
        """
        self._resume()
        label = f"{self.context.stage}: trials"
        try:
            with (
                self._pool() as pool,
                self.context.progress.track(label, self.goal.trials, self.counted) as tracker,
            ):
                while self.in_flight or not self._is_done():
                    self._fill()
                    if self.in_flight:
                        self._finish_some(pool, tracker)
        finally:
            tear_down(self._search)
        return self._evaluated()

    def _evaluated(self) -> list[Record]:
        found = sorted((r for r in self.records.values() if r.state == "evaluated"), key=lambda r: r.number)
        if not found:
            raise StageError(self._explain_nothing())
        return found

    def _explain_nothing(self) -> str:
        failed = [r.reason for r in self.records.values() if r.state == "failed"]
        if failed:
            return f"all {len(failed)} trials failed; the last one: {failed[-1]}"
        refused = [r for r in self.records.values() if r.state == "refused"]
        reason = refused[-1].reason if refused else "none was drawn"
        return (
            f"none of {len(refused)} different designs is allowed; the last refusal: {reason}. Raise "
            "`limits`, or make the "
            f"space's smallest networks smaller."
        )

    def _resume(self) -> None:
        """Read the study in trial order: count what was told, take up what was in flight."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING:
                self._admit(Trial(self.study, trial._trial_id))
            elif "learnforge" in trial.user_attrs:
                record = Record(**trial.user_attrs["learnforge"])
                is_new = record.state in ("evaluated", "failed")
                self._notice(record, is_new)
                self.counted += is_new

    def _notice(self, record: Record, is_new: bool) -> None:
        """Remember a design, and how many in a row were not new; called for each trial, in trial order."""
        if record.state != "repeat":
            self.records.setdefault(record.key, record)
        self.in_a_row = 0 if is_new else self.in_a_row + 1

    def _is_done(self) -> bool:
        return self.is_exhausted or self.counted + len(self.in_flight) >= self.goal.trials

    def _fill(self) -> None:
        """Ask for trials until the batch, or every worker, has work.

        Batches end where their number divides the trials counted, so that a batch which a kill left half
        asked is asked to its end, and one left half told is not asked for more.
        """
        want = self.batch - self.counted % self.batch if self.batch else len(self.slots)
        while len(self.in_flight) < want and not self._is_done():
            if self.in_a_row >= REPEATS_BEFORE_RANDOM and not self._enqueue_unseen():
                self.is_exhausted = True
                return
            self._admit(self.study.ask())

    def _enqueue_unseen(self) -> bool:
        """Put an unseen, admissible random design into the study's queue; False where none turns up."""
        trials = self.study.get_trials(deepcopy=False)
        if any(trial.state == TrialState.WAITING for trial in trials):
            return True  # put there just before a kill
        rng = generator(self.context.seed, "unseen", len(trials))
        seen = set(self.records)
        for _ in range(DRAWS_BEFORE_EXHAUSTED):
            candidate = self.view.random(rng)
            if candidate.key not in seen and not self._refusal(candidate.design)[0]:
                self.study.enqueue_trial(dict(candidate.choices))
                return True
            seen.add(candidate.key)
        return False

    def _admit(self, trial: Trial) -> None:
        """Let the space make its choices; tell a repeated or refused design at once, take a new one in for
        running.
        """
        design = self.space.design(TrialPick(trial))
        key = design_key(design)
        known = self.records.get(key)
        if known is not None:
            self._notice(Record(trial.number, key, design, "repeat"), is_new=False)
            if known.state == "running":
                self.twins.setdefault(key, []).append(trial)
            else:
                self._tell_repeat(trial, known)
            return
        reason, metrics = self._refusal(design)
        if not reason and self.goal.needs_latency:
            metrics["latency_ms"] = self._latency(trial, design)
            reason = _over_limit(metrics, self.goal.limits)
        record = Record(trial.number, key, design, "refused" if reason else "running", metrics, reason)
        self._notice(record, is_new=not reason)
        if reason:
            self._tell(trial, record)
        else:
            self.in_flight[trial.number] = (trial, record)

    def _refusal(self, design: Design) -> tuple[str, dict[str, float]]:
        """Return why a design may not be trained, or "", and its costs."""
        try:
            with torch.device("meta"):
                cost = measure_cost(self.space.build(design, self.task.info), self.task.info)
        except Exception as error:  # one design that its space cannot build must not end the search
            return f"cannot be built by {identify(self.space)}: {type(error).__name__}: {error}", {}
        metrics = cost.as_metrics()
        reason = _over_limit(metrics, {k: v for k, v in self.goal.limits.items() if k in metrics})
        if not reason:
            vetoed = self.context.plugins.hook.learnforge_vet_design(
                design=design, cost=cost, stage=self.context.stage
            )
            reason = str(vetoed or "")
        return reason, metrics

    def _latency(self, trial: Trial, design: Design) -> float:
        """Measure once, before any trial of the batch runs; a stored measurement is never repeated."""
        stored = trial.user_attrs.get("latency_ms")
        if stored is None:
            with seeded(self.context.seed):
                network = self.space.build(design, self.task.info).to(self.context.device)
            stored = measure_latency(network, self.task.info, threads=self.slots[0].threads)
            trial.set_user_attr("latency_ms", stored)
        return float(stored)

    def _tell(self, trial: Trial, record: Record, is_complete: bool = False) -> None:
        trial.set_user_attr("learnforge", record.as_data())
        if is_complete:
            self.study.tell(trial, [record.metrics[name] for name in self.goal.metrics])
        else:
            self.study.tell(trial, state=TrialState.FAIL)
        self.context.emit("trial_finished", stage=self.context.stage, trial=record.as_data())

    def _tell_repeat(self, trial: Trial, known: Record) -> None:
        reason = f"repeats trial {known.number}"
        record = Record(trial.number, known.key, known.design, "repeat", dict(known.metrics), reason)
        self._tell(trial, record, known.state == "evaluated")

    def _finish_some(self, pool: Pool, tracker: Tracker) -> None:
        """Run what is in flight: all of a batch, told in trial order, or else until one is done."""
        for number, (_, record) in self.in_flight.items():
            pool.submit(TrialJob(self._search, number, record.design))
        results = pool.collect(wait_for_all=self.batch is not None)
        for result in sorted(results, key=lambda r: r.number):
            trial, record = self.in_flight.pop(result.number)
            self._conclude(trial, record, result)
            tracker.advance(_trial_words(record))

    def _conclude(self, trial: Trial, record: Record, result: TrialResult) -> None:
        record.metrics.update(result.metrics)
        record.seconds = result.seconds
        values = [record.metrics.get(name, math.nan) for name in self.goal.metrics]
        is_good = not result.failure and all(map(math.isfinite, values))
        record.state = "evaluated" if is_good else "failed"
        record.reason = result.failure or (
            "" if is_good else f"{', '.join(self.goal.metrics)} must be finite, got {values}"
        )
        self.counted += 1
        self._tell(trial, record, is_good)
        for twin in self.twins.pop(record.key, ()):
            self._tell_repeat(twin, record)

    @contextlib.contextmanager
    def _pool(self) -> Iterator[Pool]:
        def reopen(slots: Sequence[Slot]) -> list[concurrent.futures.Executor]:
            return self.executor.open(slots, set_up, self._setup)

        pool = Pool(self.slots, reopen)
        try:
            yield pool
        finally:
            pool.close()


def read_records(study: optuna.Study) -> list[dict[str, Any]]:
    """Return what the driver noted of every told trial, oldest first."""
    trials = study.get_trials(deepcopy=False)
    return [dict(t.user_attrs["learnforge"]) for t in trials if "learnforge" in t.user_attrs]


def _over_limit(metrics: Mapping[str, float], limits: Mapping[str, float]) -> str:
    over = [
        f"{name} {metrics[name]:,.6g} > {limit:,.6g}"
        for name, limit in limits.items()
        if metrics[name] > limit
    ]
    return ", ".join(over)


def _trial_words(record: Record) -> str:
    if record.state == "failed":
        return f"trial {record.number} failed"
    parameters = int(record.metrics["parameters"])
    return f"trial {record.number}: {record.metrics['accuracy']:.1%}, {parameters:,} parameters"
