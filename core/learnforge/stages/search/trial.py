"""One trial of a search: build a design, train it, judge it on validation data. Runs wherever an executor
puts it.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from attrs import frozen

from learnforge.context import Context, Slot
from learnforge.errors import DivergedError
from learnforge.evaluation import evaluate
from learnforge.plugins import Plugins
from learnforge.randomness import derive, seeded
from learnforge.space import Design, Space
from learnforge.task import Task
from learnforge.training import Train, Trainee, cross_entropy, fit


@frozen
class TrialJob:
    """What a trial is told.

    Args:
        search: Which search it belongs to.
        number: Number of the trial.
        design: What to build.
    """

    search: str
    number: int
    design: Design


@frozen
class TrialResult:
    """What a trial reports.

    Args:
        number: Number of the trial.
        metrics: Validation accuracy and loss; empty for a failed trial.
        seconds: Time it took.
        history: One entry an epoch.
        failure: Why it failed, or "".
    """

    number: int
    metrics: Mapping[str, float]
    seconds: float
    history: tuple[Mapping[str, Any], ...] = ()
    failure: str = ""


@frozen(eq=False)
class _Workplace:
    slot: Slot
    space: Space
    task: Task
    train: Train
    seed: int
    stage: str
    plugins: Plugins


_WORKPLACES: dict[str, _Workplace] = {}


def set_up(
    slot: Slot,
    plugins: Plugins,
    search: str,
    space: Space,
    task: Task,
    train: Train,
    seed: int,
    stage: str,
    deterministic: bool,
) -> None:
    """Prepare a process or thread for a search's trials: data on the device, kernels as asked."""
    if deterministic:
        torch.use_deterministic_algorithms(True)
    device = torch.device(slot.device)
    _WORKPLACES[search] = _Workplace(slot, space, task.load(device), train, seed, stage, plugins)


def tear_down(search: str) -> None:
    """Forget a search's workplace in this process."""
    _WORKPLACES.pop(search, None)


def run_trial(job: TrialJob) -> TrialResult:
    """Train a design and judge it. A loss that is not finite, and any other error, fails the trial alone."""
    place = _WORKPLACES[job.search]
    start, threads = time.perf_counter(), torch.get_num_threads()
    torch.set_num_threads(place.slot.threads)
    try:
        metrics, history = _train(job, place)
        return TrialResult(job.number, metrics, time.perf_counter() - start, tuple(history))
    except DivergedError as error:
        return TrialResult(job.number, {}, time.perf_counter() - start, failure=str(error))
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        return TrialResult(job.number, {}, time.perf_counter() - start, failure=reason)
    finally:
        torch.set_num_threads(threads)


def _train(job: TrialJob, place: _Workplace) -> tuple[dict[str, float], list[dict[str, Any]]]:
    device, task = torch.device(place.slot.device), place.task
    seed = derive(place.seed, "trial", job.number)
    with seeded(seed):
        network = place.space.build(job.design, task.info).to(device)
    context = Context(stage=place.stage, seed=seed, device=device, plugins=place.plugins)
    is_watched = place.train.patience is not None or place.train.weights == "best"
    history = fit(
        Trainee(network, cross_entropy(network, place.train)),
        task.train,
        task.info,
        place.train,
        context,
        f"trial {job.number}",
        (lambda: evaluate(network, task.validation, task.info).accuracy) if is_watched else None,
    )
    scores = evaluate(network, task.validation, task.info)
    return {"accuracy": scores.accuracy, "loss": scores.loss}, history
