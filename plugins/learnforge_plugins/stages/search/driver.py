"""The search driver: asks an Optuna study for designs, refuses, recognises, runs and records them.

The study is the only state. What a trial was asked is stored before it runs, so trials in flight at a kill
run again with their stored choices; with `batch` set a batch is wholly asked before its first trial starts
and told in trial order at its end, so the number of workers does not change the search.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.study._tell import _tell_with_warning as tell  # Study.tell also copies the trial, to return it
from optuna.trial import FrozenTrial, Trial, TrialState

from learnforge.context import Context, Silence, Tracker
from learnforge.errors import StageError
from learnforge.kinds.executor import Executor, Slot
from learnforge.kinds.searcher import Candidate, Searcher
from learnforge.kinds.space import Design, design_key
from learnforge_kit.search.sampler import HistorySampler, generator
from learnforge_kit.search.trials import NOTE, read_records
from learnforge_kit.search.view import SpaceView, TrialPick
from learnforge_plugins.stages.search.admission import Admission
from learnforge_plugins.stages.search.ladder import Ladder
from learnforge_plugins.stages.search.objective import (
    Objective,
    Refused,
    TrialJob,
    TrialResult,
    set_up,
    tear_down,
)
from learnforge_plugins.stages.search.pool import Pool
from learnforge_plugins.stages.search.record import Goal, Ranking, Record
from learnforge_plugins.stages.search.storage import open_study, store_asked

REPEATS_BEFORE_RANDOM = 50
"""Repeated or refused designs in a row after which the driver draws an unseen random design itself."""

DRAWS_BEFORE_EXHAUSTED = 2000
"""Random designs drawn without an unseen, admissible one among them after which the space is called
exhausted.
"""

FLOOR = "learnforge_floor"
"""Attribute of a study that holds the least score that its filter lets pass."""


FOUND = "learnforge_found"
"""Attribute of a study whose queue holds all that was found without a sampler."""

Find = Callable[[], Sequence[Mapping[str, Any]]]


class Driver:
    """Runs one search to its end, from wherever its study stands.

    Args:
        admission: What to search for, how designs are evaluated, and which may be.
        study: The study, with the searcher's sampler.
        executor: Where trials run.
        threads: CPU threads of a trial.
        find: Finds choices of the designs to evaluate, where no sampler proposes them.
    """

    def __init__(
        self,
        admission: Admission,
        study: optuna.Study,
        executor: Executor,
        threads: int,
        find: Find | None = None,
    ):
        self.admission, self.study, self.executor, self.find = admission, study, executor, find
        self.goal, self.objective, self.context = admission.goal, admission.objective, admission.context
        goal, objective, context = self.goal, self.objective, self.context
        self.view = SpaceView(objective.space)
        self.slots = [Slot(threads, str(context.device)) for _ in range(context.workers)]
        # a measurement must not be disturbed by trials, so these are asked for together
        self.batch = goal.batch or (context.workers if objective.measured_once else None)
        self.records: dict[str, Record] = {}
        self.in_flight: dict[int, tuple[Trial, Record]] = {}
        self.ladder = Ladder(goal, objective.epochs, context)
        self.twins: dict[str, list[Trial]] = {}
        self.counted = 0
        self.seconds = 0.0
        self.in_a_row = 0
        self.is_exhausted = False
        # workers keep objectives of several searches apart by it; the id tells apart two of one stage
        self._search = f"{context.stage}/{context.seed}/{id(self)}"
        self._setup = (context.plugins, self._search, objective, context.deterministic)

    def run(self) -> list[Record]:
        """Search until the goal is reached or the space is exhausted; return the designs that were evaluated
        to their end, oldest first.

        Raises:
            StageError: Every design was refused by the limits, or every trial fails.
        """
        self.admission.floor = self._find_floor()
        self._resume()
        self._warm_up()
        self._queue_found()
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
        stopped = [r for r in self.records.values() if r.state == "stopped"]
        if stopped:
            count = len(stopped)
            return f"no trial was trained to its end: {count} were stopped at a rung; ask for more `trials`"
        refused = [r for r in self.records.values() if r.state == "refused"]
        reason = refused[-1].reason if refused else "none was drawn"
        least = {
            name: min(r.metrics[name] for r in refused if name in r.metrics)
            for name in self.goal.limits
            if any(name in r.metrics for r in refused)
        }
        seen = "".join(f"; the least {name} was {value:g}" for name, value in least.items())
        return (
            f"none of {len(refused)} different designs is allowed; the last refusal: {reason}{seen}. Raise "
            "`limits`, mend what refuses, or make the space's smallest networks smaller."
        )

    # what the study already holds

    def _resume(self) -> None:
        """Read the study in trial order: count what was told, take up what was in flight."""
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING:
                # its choices are stored, so the space makes the same again; Optuna has no public way to this
                self._admit(Trial(self.study, trial._trial_id))
            elif NOTE in trial.user_attrs:
                record = Record(**trial.user_attrs[NOTE])
                self._notice(record, record.is_counted)
                self.counted += record.is_counted
                self.seconds += record.seconds * record.is_counted
                self.ladder.remember(trial, record)

    def _notice(self, record: Record, is_new: bool) -> None:
        """Remember a design, and how many in a row were not new; called for each trial, in trial order."""
        if record.state != "repeat":
            self.records.setdefault(record.key, record)
        self.in_a_row = 0 if is_new else self.in_a_row + 1
        if is_new:
            self.ladder.enter(record.number)

    def _is_done(self) -> bool:
        is_over = self.goal.seconds is not None and self.seconds >= self.goal.seconds
        return self.is_exhausted or is_over or self.counted + len(self.in_flight) >= self.goal.trials

    # what is asked next

    def _warm_up(self) -> None:
        """Put the designs that a score prefers into the study's queue, before anything is asked."""
        wanted = self.goal.warm_start
        queued = len(self.study.get_trials(deepcopy=False))
        if wanted is None or queued >= wanted.keep:
            return
        chosen = self._rank(wanted, "warm start")[: int(wanted.keep)]
        for candidate, _ in chosen[queued:]:
            self.study.enqueue_trial(dict(candidate.choices))

    def _queue_found(self) -> None:
        """Put what was found without a sampler into the study's queue, once."""
        if self.find is None or self.study.user_attrs.get(FOUND):
            return
        queued = len(self.study.get_trials(deepcopy=False))
        for choices in self.find()[queued:]:
            self.study.enqueue_trial(dict(choices))
        self.study.set_user_attr(FOUND, True)

    def _has_waiting(self) -> bool:
        return any(t.state == TrialState.WAITING for t in self.study.get_trials(deepcopy=False))

    def _find_floor(self) -> float:
        """Return the least score that the filter lets pass, found once and stored."""
        wanted = self.goal.filter
        if wanted is None:
            return -math.inf
        stored = self.study.user_attrs.get(FLOOR)
        if stored is None:
            ranked = self._rank(wanted, "filter")
            stored = ranked[max(1, round(wanted.keep * len(ranked))) - 1][1] if ranked else -math.inf
            self.study.set_user_attr(FLOOR, stored)
        return float(stored)

    def _rank(self, wanted: Ranking, use: str) -> list[tuple[Candidate, float]]:
        """Draw distinct random designs that the limits allow; return them with their scores, best first."""
        rng, scored, seen = generator(self.context.seed, use), [], set[str]()
        with self.context.progress.track(f"{self.context.stage}: {use}", wanted.candidates) as tracker:
            for _ in range(wanted.candidates + DRAWS_BEFORE_EXHAUSTED):
                candidate = self.view.random(rng)
                if candidate.key in seen:
                    continue
                seen.add(candidate.key)
                if self.admission.allows(candidate.design):
                    with contextlib.suppress(Refused):
                        value = self.objective.score(wanted.score, candidate.design, self.context)
                        scored.append((candidate, value))
                        tracker.advance()
                if len(scored) == wanted.candidates:
                    break
        return sorted(scored, key=lambda pair: -pair[1])

    def _fill(self) -> None:
        """Ask for trials until the batch, or every worker, has work.

        Batches end where their number divides the trials counted, so that a batch which a kill left half
        asked is asked to its end, and one left half told is not asked for more.
        """
        want = self.batch - self.counted % self.batch if self.batch else len(self.slots)
        while len(self.in_flight) < want and not self._is_done():
            if self.find is not None and not self._has_waiting():
                self.is_exhausted = True
                return
            if self.in_a_row >= REPEATS_BEFORE_RANDOM and not self._enqueue_unseen():
                self.is_exhausted = True
                return
            self._admit(self.study.ask())

    def _enqueue_unseen(self) -> bool:
        """Put an unseen, admissible random design into the study's queue; False where none turns up."""
        if self._has_waiting():
            return True  # put there just before a kill
        # seeded by how far the study is, so that a resumed search draws the same
        rng = generator(self.context.seed, "unseen", len(self.study.get_trials(deepcopy=False)))
        seen = set(self.records)
        label = f"{self.context.stage}: looking for a design that is allowed"
        # it takes long only where hardly anything is allowed, and then somebody wants to know
        progress = self.context.progress if not self.counted else Silence()
        with progress.track(label, DRAWS_BEFORE_EXHAUSTED) as tracker:
            for _ in range(DRAWS_BEFORE_EXHAUSTED):
                candidate = self.view.random(rng)
                if candidate.key not in seen and self.admission.allows(candidate.design):
                    self.study.enqueue_trial(dict(candidate.choices))
                    return True
                seen.add(candidate.key)
                tracker.advance()
        return False

    def _admit(self, trial: Trial) -> None:
        """Let the space make its choices; tell a repeated or refused design at once, take a new one in
        for running.
        """
        design = self.objective.space.design(TrialPick(trial))
        key = design_key(design)
        known = self.records.get(key)
        if known is not None:
            self._notice(Record(trial.number, key, design, "repeat"), is_new=False)
            # its value is not known yet: it is told with the trial that it repeats
            if known.state == "running":
                self.twins.setdefault(key, []).append(trial)
            else:
                self._tell_repeat(trial, known)
            return
        reason, metrics = self.admission.refusal(design, key)
        if not reason and self.objective.measured_once:
            try:
                metrics |= {
                    name: self._measured(name, trial, design) for name in self.objective.measured_once
                }
                reason = self.admission.broken(metrics)
            except Refused as refused:
                reason = str(refused)
        record = Record(trial.number, key, design, "refused" if reason else "running", metrics, reason)
        self._notice(record, is_new=not reason)
        if reason:
            self._tell(trial, record)
        else:
            self.in_flight[trial.number] = (trial, record)
            self.ladder.take_up(trial, record)

    def _measured(self, name: str, trial: Trial, design: Design) -> float:
        """Measure once, before any trial of the batch runs; a stored measurement is never repeated."""
        stored = trial.user_attrs.get(name)
        if stored is None:
            stored = self.objective.measure(name, design, self.context)
            trial.set_user_attr(name, stored)
        return float(stored)

    # what is run and told

    def _tell(self, trial: Trial, record: Record, is_complete: bool = False) -> None:
        noted = record.as_data()
        trial.set_user_attr(NOTE, noted)
        if is_complete:
            tell(self.study, trial, [record.metrics[name] for name in self.goal.metrics])
        else:  # samplers learn from pruned trials to keep away, and nothing from failed ones
            is_refused = self.records[record.key].state == "refused"
            tell(self.study, trial, state=TrialState.PRUNED if is_refused else TrialState.FAIL)
        self.context.emit("trial_finished", stage=self.context.stage, trial=noted)

    def _tell_repeat(self, trial: Trial, known: Record) -> None:
        reason = f"repeats trial {known.number}"
        record = Record(trial.number, known.key, known.design, "repeat", dict(known.metrics), reason)
        self._tell(trial, record, known.state in ("evaluated", "stopped"))

    def _finish_some(self, pool: Pool, tracker: Tracker) -> None:
        """Run what is in flight: all of a batch, told in trial order, or else until one is done."""
        self._settle(tracker)  # what a kill left undecided
        store_asked(self.study)
        for number in self._due():
            trial, record = self.in_flight[number]
            epochs, state = self.ladder.next_epochs(number), self.ladder.state(number)
            pool.submit(TrialJob(self._search, number, record.design, trial.params, epochs, state))
        for result in sorted(pool.collect(wait_for_all=self.batch is not None), key=lambda r: r.number):
            self._take_in(result)
        self._settle(tracker)

    def _due(self) -> list[int]:
        return self.ladder.due(self.in_flight, is_batch=self.batch is not None)

    def _settle(self, tracker: Tracker) -> None:
        """Tell the trials that are at their end; of a batch only when all of it has come as far."""
        if self.batch is not None and self._due():
            return
        last = self.ladder.furthest_behind(self.in_flight) if self.batch is not None else None
        for number, (trial, record) in list(self.in_flight.items()):
            outcome = self.ladder.decide(number, record, last)
            if outcome is not None:
                del self.in_flight[number]
                self._conclude(trial, record, *outcome)
                tracker.advance(_trial_words(record, self.goal.objectives))

    def _take_in(self, result: TrialResult) -> None:
        """Note what a job reports."""
        trial, record = self.in_flight[result.number]
        record.metrics.update(result.metrics)
        record.seconds += result.seconds
        values = [record.metrics.get(name, math.nan) for name in self.goal.metrics]
        reason = result.failure or self.admission.broken(record.metrics)
        if not reason and not all(map(math.isfinite, values)):
            reason = f"{', '.join(self.goal.metrics)} must be finite, got {values}"
        if reason:
            record.state, record.reason = "failed", reason
        self.ladder.climb(trial, record, values, result.state)

    def _conclude(self, trial: Trial, record: Record, state: str, reason: str) -> None:
        record.state, record.reason = state, reason
        self.counted += 1
        self.seconds += record.seconds
        self._tell(trial, record, state != "failed")
        for twin in self.twins.pop(record.key, ()):
            self._tell_repeat(twin, record)

    @contextlib.contextmanager
    def _pool(self) -> Iterator[Pool]:
        def reopen(slots: Sequence[Slot]) -> list[concurrent.futures.Executor]:
            return self.executor.open(slots, set_up, self._setup)

        pool = Pool(self.slots, reopen)
        try:
            yield pool
        except BaseException:
            pool.close(wait=False)  # what is in flight runs again when the search goes on
            raise
        pool.close()


def search_designs(
    name: str,
    goal: Goal,
    objective: Objective,
    searcher: Searcher,
    context: Context,
    seed: int,
    scores: Mapping[str, Callable[[Design], float]] | None = None,
    threads: int = 1,
    file: str = "study.db",
    find: Find | None = None,
) -> tuple[list[Record], list[dict[str, Any]]]:
    """Search by a searcher, from wherever the study of this name stands.

    Args:
        name: Name of the study.
        goal: What is searched for.
        objective: How designs are evaluated.
        searcher: Proposes them.
        context: Executor, workers, folder, hooks.
        seed: Seed of the searcher.
        scores: Zero-cost scores that the searcher may ask for.
        threads: CPU threads of a trial.
        file: File of the study in the context's folder.
        find: Finds choices of the designs to evaluate, for a searcher that is no sampler.

    Returns:
        The designs that were evaluated to their end, oldest first, and the records of all trials.

    Raises:
        StageError: No design could be evaluated, or there is no executor.
    """
    if context.executor is None:
        raise StageError(f"the search {name!r} needs an executor, the context has none")
    admission = Admission(goal, objective, context)
    view = SpaceView(objective.space, scores, admission.allows)
    sampler = _AsFound(seed) if find is not None else searcher.sampler(seed, goal.directions, view)
    path = context.folder / file if context.folder else None
    with open_study(path, name, goal.directions, sampler, goal.metrics) as study:
        return Driver(admission, study, context.executor, threads, find).run(), read_records(study)


class _AsFound(HistorySampler):
    """Completes choices that were found without a sampler."""

    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        return {}


def _trial_words(record: Record, objectives: Sequence[str]) -> str:
    if record.state == "failed":
        return f"trial {record.number} failed"
    accuracy, parameters = record.metrics.get("accuracy"), record.metrics.get("parameters")
    words = [f"{accuracy:.1%}"] if accuracy is not None else []
    first = next(iter(objectives), "accuracy").removeprefix("-")
    if accuracy is None and first in record.metrics:
        words = [f"{first} {record.metrics[first]:.4g}"]
    words += [f"{int(parameters):,} parameters"] if parameters is not None else []
    stopped = f" stopped after {record.epochs} epochs" if record.state == "stopped" else ""
    return f"trial {record.number}{stopped}: {', '.join(words)}".removesuffix(": ")
