"""What the search driver costs beside the searcher's own work, per trial, in memory and in SQLite.

    python tests/benchmarks/driver.py

runs searches whose trials end at once, and prints the milliseconds of a trial over blocks of the search,
less those spent in the sampler. Bar: at most 3 ms in memory, no growth with the number of trials.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import torch
from attrs import frozen

from learnforge import Context, Plugins
from learnforge_kit.search.sampler import draw, generator
from learnforge_plugins.stages.search.admission import Admission
from learnforge_plugins.stages.search.driver import Driver
from learnforge_plugins.stages.search.objective import Objective, Place, TrialJob, TrialResult
from learnforge_plugins.stages.search.record import Goal
from learnforge_plugins.stages.search.storage import open_study
from learnforge_testing.landscapes import Letters

CHOICES = 20


@frozen(eq=False)
class Nothing(Objective):
    """Evaluates a design in no time."""

    space: Any

    def evaluate(self, job: TrialJob, place: Place) -> TrialResult:
        return TrialResult(job.number, {"accuracy": 0.5}, 0.0)


class Timed(optuna.samplers.BaseSampler):
    """Draws at random, and adds up the time that it takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._rng = generator(0, "driver")

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        start = time.perf_counter()
        value = draw(param_distribution, self._rng)
        self.seconds += time.perf_counter() - start
        return value


def measure(trials: int, blocks: int, path: Path | None) -> list[float]:
    """Return the driver's milliseconds a trial in each of so many blocks."""
    plugins, sampler = Plugins(), Timed()
    marks: list[tuple[int, float]] = []

    def emit(event: str, trial: Mapping[str, Any], **data: Any) -> None:
        if trial["number"] % (trials // blocks) == 0:
            marks.append((trial["number"], time.perf_counter() - sampler.seconds))

    context = Context("driver", 0, torch.device("cpu"), plugins, emit=emit)
    goal = Goal(trials + 1, ("accuracy",), {})
    executor = plugins.load("executor", "serial")()
    with open_study(path, "driver", goal.directions, sampler, goal.metrics) as study:
        Driver(Admission(goal, Nothing(Letters((10,) * CHOICES)), context), study, executor, 1).run()
    pairs = itertools.pairwise(marks)
    return [1e3 * (later - earlier) / (m - n) for (n, earlier), (m, later) in pairs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--stored", type=int, default=500, help="trials of the search in SQLite")
    given = parser.parse_args()
    torch.set_num_threads(1)
    measure(200, 2, None)  # imports, caches
    found = measure(given.trials, 10, None)
    print(f"in memory, {given.trials} trials of {CHOICES} choices, ms a trial in each tenth:")
    print("  " + "  ".join(f"{ms:.2f}" for ms in found))
    print(f"  median {statistics.median(found):.2f} ms; last tenth / first tenth {found[-1] / found[0]:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        stored = measure(given.stored, 5, Path(folder) / "study.db")
    print(f"in SQLite, {given.stored} trials, ms a trial in each fifth:")
    print("  " + "  ".join(f"{ms:.2f}" for ms in stored))


if __name__ == "__main__":
    main()
