"""Put assistants between a large teacher and a tiny student, and see when they help.

The student has a hundredth of the teacher's parameters. Taught directly it learns less than from a chain of
networks in between, each taught by the one above.
"""

from __future__ import annotations

import statistics
import warnings

import learnforge as lf

SEEDS = range(3)


def main() -> dict[str, list[float]]:
    digits = lf.load_task("digits")
    mlp, method = lf.load_method("model.mlp"), lf.load_method("distiller.dist")()
    teacher, student = mlp(hidden=[512]), mlp(hidden=[5])
    settings = {
        "teacher_train": {"epochs": 20, "learning_rate": 3e-3, "crop": 1},
        "train": {"epochs": 30, "learning_rate": 1e-2, "crop": 1},
    }
    found: dict[str, list[float]] = {"labels alone": [], "no assistant": [], "two assistants": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lf.GapWarning)  # the gap is what this is about
        for seed in SEEDS:
            for name, assistants in (("no assistant", 0), ("two assistants", 2)):
                taught = lf.distill(
                    teacher, student, method, digits, seed=seed, assistants=assistants,
                    baseline=not assistants, **settings,
                )  # fmt: skip
                found[name].append(taught.metrics["test_accuracy"])
                if not assistants:
                    found["labels alone"].append(taught.metrics["baseline_test_accuracy"])
    return found


if __name__ == "__main__":
    for name, values in main().items():
        print(f"{name}: {statistics.fmean(values):.1%} ± {statistics.stdev(values):.1%}")
