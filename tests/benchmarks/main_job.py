"""Runs the packaged recipe `digits` over paired seeds with resampled splits, and holds it against its bars.

    python tests/benchmarks/main_job.py [--seeds 20] [--jobs 2] [--set KEY=VALUE]

Each seed has its own random split of the images. A student and its from-scratch baseline share split, initial
weights, batches and budget, and so do the transferred network and its baseline, so differences are paired.
Each run has one thread.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from typing import Any

BARS = {"student - baseline": 2.0, "transferred - from scratch": 2.0, "few-shot after adaptation": 0.75}


def run_seed(seed: int, overrides: Sequence[str]) -> dict[str, float]:
    """Run the recipe with one seed and return its test figures."""
    import torch

    import learnforge as lf
    from learnforge.recipe import find_recipe, read_recipe

    torch.set_num_threads(1)
    data = read_recipe(find_recipe("digits"), overrides)
    data["run"]["seed"] = seed
    tables: list[dict[str, Any]] = [
        data["task"],
        *(stage["task"] for stage in data["stage"] if "task" in stage),
    ]
    for table in tables:
        table["split_seed"] = seed
    start = time.perf_counter()
    made = {name: artifact.metrics for name, artifact in lf.run(data).artifacts.items()}
    return {
        "searched": made["search"]["test_accuracy"],
        "student": made["distill"]["test_accuracy"],
        "baseline": made["distill"]["baseline_test_accuracy"],
        "transferred": made["transfer"]["test_accuracy"],
        "from scratch": made["transfer"]["baseline_test_accuracy"],
        "few-shot before adaptation": made["meta"]["test"]["before"],
        "few-shot after adaptation": made["meta"]["test"]["after"],
        "file as the network": made["export"]["agreement"],
        "seconds": time.perf_counter() - start,
    }


def show(name: str, values: Sequence[float], unit: float = 100.0) -> None:
    error = statistics.stdev(values) / len(values) ** 0.5
    spread = statistics.stdev(values)
    print(f"{name:<28}{unit * statistics.mean(values):>9.2f}{unit * spread:>8.2f}{unit * error:>8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args()
    seeds = range(arguments.seeds)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, context) as pool:
        found = list(pool.map(run_seed, seeds, [arguments.overrides] * len(seeds)))
    print(f"{'test, per cent':<28}{'mean':>9}{'sd':>8}{'se':>8}")
    for name in list(found[0])[:-1]:
        show(name, [row[name] for row in found])
    show("seconds of a run", [row["seconds"] for row in found], 1.0)
    differences = {
        "student - baseline": [row["student"] - row["baseline"] for row in found],
        "transferred - from scratch": [row["transferred"] - row["from scratch"] for row in found],
    }
    print(f"\n{'bars':<28}{'measured':>9}{'bar':>8}")
    for name, values in differences.items():
        show(name, values)
        ratio = statistics.mean(values) / (statistics.stdev(values) / len(values) ** 0.5)
        verdict = "" if ratio > BARS[name] else "  missed"
        print(f"{'  in standard errors':<28}{ratio:>9.2f}{BARS[name]:>8.2f}{verdict}")
    after = statistics.mean(row["few-shot after adaptation"] for row in found)
    bar = BARS["few-shot after adaptation"]
    print(f"{'few-shot after adaptation':<28}{after:>9.3f}{bar:>8.2f}{'' if after >= bar else '  missed'}")


if __name__ == "__main__":
    main()
