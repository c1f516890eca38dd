"""How long a training-bound search takes with one worker process, with two, and in this process with all
cores.

    python tests/benchmarks/executors.py [--rounds 3]

Bars, on two cores: two single-thread processes take at most 0.6 times as long as one of them, and at most
0.8 times as long as `serial` with a thread for each core. The three alternate, so that noise of the machine
meets all; ratios are medians.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from typing import Any

import torch

import learnforge as lf
from learnforge import Plugins

SEARCH: dict[str, Any] = {
    "use": "random",
    "space": {"use": "residual", "stages": 3, "blocks": 2, "max_width": 32},
    "trials": 10,
    "train": {"epochs": 20, "batch_size": 32},
    "retrain": {"epochs": 0},
}


def run(executor: str, workers: int, threads: int) -> float:
    """Return the seconds of one search."""
    stage = {"kind": "search", "executor": {"use": executor}, "threads": threads, **SEARCH}
    recipe = {"run": {"device": "cpu"}, "task": {"use": "digits"}, "stage": [stage]}
    start = time.perf_counter()
    lf.run(recipe, workers=workers)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    Plugins().load("task", "digits")().load()
    ways = {
        "one process, 1 thread": ("processes", 1, 1),
        "two processes, 1 thread each": ("processes", 2, 1),
        f"serial, {cores} threads": ("serial", 1, cores),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, way in ways.items():
            seconds[name].append(run(*way))
    for name, found in seconds.items():
        print(f"{name:30} {statistics.median(found):6.1f} s  ({min(found):.1f} to {max(found):.1f})")
    one, two, serial = seconds.values()
    print(f"two processes / one      {statistics.median(b / a for a, b in zip(one, two, strict=True)):.2f}")
    print(
        f"two processes / serial   {statistics.median(b / c for b, c in zip(two, serial, strict=True)):.2f}"
    )


if __name__ == "__main__":
    main()
