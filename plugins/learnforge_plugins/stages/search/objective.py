"""How designs are evaluated: what is known of one beforehand, and the job that finds out the rest.

The driver is the same whatever is searched: networks that are trained, rows of a table, options of a stage.
"""

from __future__ import annotations

import time
import traceback
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import define, field, frozen

from learnforge.context import Context
from learnforge.errors import DivergedError, PluginError, PluginWarning, StageError
from learnforge.kinds.executor import Slot
from learnforge.kinds.space import Design, Space
from learnforge.plugins.registry import Plugins
from learnforge.randomness import read_settings, restore_settings
from learnforge_kit.workers import environment_fault


class Refused(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by `Objective.predict_costs`: the design cannot be evaluated, for the reason given."""


@frozen
class TrialJob:
    """What a trial is told; plain data, so that any executor can carry it.

    Args:
        search: Which search it belongs to.
        number: Number of the trial.
        design: What to evaluate.
        choices: The choices that made it.
        epochs: Epochs to train to; None for all.
        state: State of the training to go on from, as an earlier job of the trial returned it.
    """

    search: str
    number: int
    design: Design
    choices: Mapping[str, Any] = field(factory=dict)
    epochs: int | None = None
    state: bytes | None = field(default=None, repr=False)


@frozen
class TrialResult:
    """What a job reports.

    Args:
        number: Number of the trial.
        metrics: Validation accuracy and loss, or what else its objective measures; empty for a failed one.
        seconds: Time it took, or is said to have taken.
        failure: Why it failed, or "".
        state: State of a training that may go on.
    """

    number: int
    metrics: Mapping[str, float]
    seconds: float
    failure: str = ""
    state: bytes | None = field(default=None, repr=False)


@define(eq=False)
class Place:
    """Where jobs of a search run, as its objective set it up.

    Args:
        slot: Threads and device.
        plugins: The run's plugins.
        objective: What evaluates.
        data: What `Objective.set_up` made.
        settings: What is global in torch here; see `read_settings`.
    """

    slot: Slot
    plugins: Plugins
    objective: Objective
    data: Any = None
    settings: Mapping[str, Any] = field(factory=read_settings)


def refusal_of(error: Exception, words: str) -> Exception:
    """Return what to raise for an error of a design that is not trained yet: a verdict on the design, or,
    where the machine is at fault, the end of the search.
    """
    fault = environment_fault(error)
    if not fault:
        return Refused(words)
    return StageError(
        f"a design could not be judged; nothing is stored of it, and the next run tries it: {fault}"
    )


class Objective(ABC):
    """Evaluates designs. A picklable value: the driver keeps one and sends it to every place
    where jobs run.
    """

    space: Space
    measured_once: Sequence[str] = ()
    """Metrics that `measure` finds out before a trial starts, once, in the driver, while nothing else
    runs.
    """

    @property
    def epochs(self) -> int:
        """Epochs of a whole trial, which rungs divide."""
        return 1

    def predict_costs(self, design: Design, context: Context) -> Iterator[Mapping[str, float]]:
        """Yield what is known of a design before it is evaluated, cheapest first.

        The driver asks for no more when a limit is broken. Its own metrics of a design must not change from
        call to call.

        Raises:
            Refused: The design cannot be evaluated.
        """
        return iter(())

    def measure(self, name: str, design: Design, context: Context) -> float:
        """Return one of the `measured_once` metrics."""
        raise NotImplementedError

    def score(self, name: str, design: Design, context: Context) -> float:
        """Return a zero-cost score; more is better."""
        raise KeyError(name)

    def set_up(self, slot: Slot, plugins: Plugins) -> Any:
        """Prepare a process or thread, before its first job; what is returned is the `data` of its place."""

    @abstractmethod
    def evaluate(self, job: TrialJob, place: Place) -> TrialResult:
        """Evaluate a design, where jobs run. An error fails the trial alone."""


_PLACES: dict[str, Place] = {}


def set_up(slot: Slot, plugins: Plugins, search: str, objective: Objective, deterministic: bool) -> None:
    """Prepare a process or thread for the jobs of a search.

    The plugins come first: unpickling them loads the files that the objective's classes are from.
    """
    if deterministic:
        torch.use_deterministic_algorithms(True)
    settings = read_settings()  # before a method's code runs
    _PLACES[search] = Place(slot, plugins, objective, objective.set_up(slot, plugins), settings)


def tear_down(search: str) -> None:
    """Forget a search's place in this process."""
    _PLACES.pop(search, None)


def run_trial(job: TrialJob) -> TrialResult:
    """Run a job. A loss that is not finite, and any other error, fails the trial alone; a fault of the
    machine is none of the design's, and is raised.
    """
    place = _PLACES[job.search]
    start, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(place.slot.threads)
    changed = restore_settings(place.settings)  # what was built here for its costs may have changed some
    try:
        return place.objective.evaluate(job, place)
    except DivergedError as error:
        return TrialResult(job.number, {}, time.perf_counter() - start, str(error))
    except Exception as error:
        if environment_fault(error) or isinstance(error, PluginError):  # a hook's, and of no design
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        return TrialResult(job.number, {}, time.perf_counter() - start, reason)
    finally:
        changed += restore_settings(place.settings)
        torch.set_num_threads(threads)
        if changed:
            names = ", ".join(dict.fromkeys(changed))
            words = f"trial {job.number}: a plugin changes {names} of torch, and must not. It is put back."
            warnings.warn(words, PluginWarning, stacklevel=2)
