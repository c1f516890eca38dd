"""What a search costs beside its trainings, per trial, next to what plain Optuna costs for the same choices.

    python tests/benchmarks/driver.py

runs searches whose trials end at once, ours and Optuna's own loop by turns, and prints for each comparison
the median milliseconds of a trial and the median of the ratios, with their range. Then it prints the seconds
of the predictor's searches of NAS-Bench-201, and the milliseconds of orders by several objectives. Bars:

    driver      at most 1.3 of Optuna in memory, both drawing by the same sampler; no growth with the trials
    tpe         at most 1.3 of Optuna's TPE with its defaults
    sqlite      at most 12 ms a trial of 20 choices
    predictor   at most 0.6 s a search
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from attrs import frozen

from learnforge import Context, Plugins
from learnforge_kit import SpaceView, best_first, draw, generator
from learnforge_kit.search.view import TrialPick
from learnforge_plugins.stages.search.admission import Admission
from learnforge_plugins.stages.search.driver import Driver
from learnforge_plugins.stages.search.objective import Objective, Place, TrialJob, TrialResult
from learnforge_plugins.stages.search.record import Goal
from learnforge_plugins.stages.search.storage import open_study
from learnforge_plugins.stages.search.table import VALIDATION, TableObjective
from learnforge_testing.landscapes import Letters

SPACE = Letters((10,) * 20)

MakeSampler = Callable[[], optuna.samplers.BaseSampler]


def value_of(choices: dict[str, Any]) -> float:
    """Score letters by their places, so that a model has something to learn."""
    return sum(ord(letter) % 7 for letter in choices.values()) / (6 * len(choices))


@frozen(eq=False)
class Scored(Objective):
    """Evaluates a design in no time."""

    space: Any

    def evaluate(self, job: TrialJob, place: Place) -> TrialResult:
        return TrialResult(job.number, {"accuracy": value_of(dict(job.choices))}, 0.0)


class Uniform(optuna.samplers.BaseSampler):
    """Draws from one generator, the cheapest that a sampler can do."""

    def __init__(self) -> None:
        self._rng = generator(0, "driver")

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return draw(param_distribution, self._rng)


def search(
    objective: Objective, goal: Goal, sampler: optuna.samplers.BaseSampler, path: Path | None
) -> float:
    """Search to the end; return the milliseconds of a trial."""
    plugins = Plugins()
    context = Context("driver", 0, torch.device("cpu"), plugins)
    executor = plugins.load("executor", "serial")()
    with open_study(path, "driver", goal.directions, sampler, goal.metrics) as study:
        start = time.perf_counter()
        Driver(Admission(goal, objective, context), study, executor, 1).run()
        return 1e3 * (time.perf_counter() - start) / len(study.get_trials(deepcopy=False))


def ours(sampler: optuna.samplers.BaseSampler, trials: int, path: Path | None) -> float:
    return search(Scored(SPACE), Goal(trials, ("accuracy",), {}), sampler, path)


def optunas(sampler: optuna.samplers.BaseSampler, trials: int, path: Path | None) -> float:
    """Let Optuna's own loop make the same choices; return the milliseconds of a trial."""
    study = optuna.create_study(
        storage=f"sqlite:///{path}" if path else None, sampler=sampler, direction="maximize"
    )

    def evaluate(trial: optuna.Trial) -> float:
        return value_of(SPACE.design(TrialPick(trial)))

    start = time.perf_counter()
    study.optimize(evaluate, n_trials=trials)
    return 1e3 * (time.perf_counter() - start) / trials


def compare(
    name: str, own: MakeSampler, other: MakeSampler, trials: int, pairs: int, stored: bool = False
) -> None:
    """Run both by turns, and print what they took."""
    found, ratios = [], []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(pairs):
            paths = [Path(folder) / f"{side}{pair}.db" if stored else None for side in ("own", "other")]
            found.append((ours(own(), trials, paths[0]), optunas(other(), trials, paths[1])))
            ratios.append(found[-1][0] / found[-1][1])
    medians = [statistics.median(column) for column in zip(*found, strict=True)]
    print(
        f"{name:32} {trials:5} trials: {medians[0]:6.2f} ms, Optuna {medians[1]:6.2f} ms; ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def growth(trials: int) -> None:
    """Print how long trials take at the start of a search in memory, and at its end."""
    short, whole = (ours(Uniform(), count, None) * count for count in (trials // 2, trials))
    print(f"{'later half / earlier half':32} {trials:5} trials: {(whole - short) / short:.2f}", flush=True)


def predict(seeds: int) -> None:
    """Print the seconds of the predictor's searches of NAS-Bench-201."""
    plugins, seconds = Plugins(), []
    objective = TableObjective(plugins.load("table", "nasbench201")())
    for seed in range(seeds + 1):  # the first one warms up
        sampler = plugins.load("searcher", "predictor")().sampler(
            seed, ["maximize"], SpaceView(objective.space)
        )
        start = time.perf_counter()
        search(objective, Goal(100_000, (VALIDATION,), {}, seconds=12_000), sampler, None)
        seconds.append(time.perf_counter() - start)
    spread = f"({min(seconds[1:]):.2f} to {max(seconds[1:]):.2f})"
    print(
        f"{'predictor, NAS-Bench-201':32} {seeds:5} seeds:  {statistics.median(seconds[1:]):.2f} s {spread}"
    )


def rank(count: int) -> None:
    """Print the milliseconds of an order of so many results."""
    for objectives in (2, 3):
        values = np.random.default_rng(0).random((count, objectives)).tolist()
        start = time.perf_counter()
        best_first(values, ["maximize"] * objectives)
        took = 1e3 * (time.perf_counter() - start)
        print(f"{f'order by {objectives} objectives':32} {count:5} results: {took:.1f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--trials", type=int, default=2000, help="trials of a search in memory")
    parser.add_argument("--stored", type=int, default=100, help="trials of a search in SQLite")
    parser.add_argument("--tpe", type=int, nargs="*", default=[300, 800], help="trials of searches by TPE")
    given = parser.parse_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    plugins = Plugins()

    def bayesian() -> Any:
        return plugins.load("searcher", "bayesian")().sampler(0, ["maximize"])

    def grouped() -> Any:
        return optuna.samplers.TPESampler(seed=0, n_startup_trials=20, multivariate=True, group=True)

    for run in (ours, optunas):  # imports, caches
        run(bayesian(), 30, None)
    compare("driver, the same sampler", Uniform, Uniform, given.trials, given.pairs)
    growth(5 * given.trials)
    for trials in given.tpe:
        compare("tpe", bayesian, lambda: optuna.samplers.TPESampler(seed=0), trials, given.pairs)
        compare("tpe, Optuna's by groups too", bayesian, grouped, trials, given.pairs)
    compare("sqlite", Uniform, Uniform, given.stored, given.pairs, stored=True)
    predict(given.pairs)
    rank(4000)


if __name__ == "__main__":
    main()
