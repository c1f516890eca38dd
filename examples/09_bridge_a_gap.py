"""Put assistants between a large teacher and a tiny student, and compare with teaching it directly.

The student has 610 parameters, its teacher 76,810; `docs/results/distillation.md` has figures of more seeds.
"""

from __future__ import annotations

import statistics
import warnings

import learnforge as lf
import learnforge_kit as kit


def main(seeds: int = 2) -> dict[str, list[float]]:
    digits = lf.load_task("digits")
    mlp, method = lf.load_method("model.mlp"), lf.load_method("distiller.dist")()
    teacher, student = mlp(hidden=[1024]), mlp(hidden=[8])
    settings = {
        "teacher_train": {"epochs": 15, "learning_rate": 3e-3, "crop": 1},
        "train": {"epochs": 20, "batch_size": 32, "learning_rate": 1e-2, "crop": 1},
    }
    found: dict[str, list[float]] = {"labels alone": [], "no assistant": [], "two assistants": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", kit.GapWarning)  # the gap is what this is about
        for seed in range(seeds):
            direct = lf.distill(teacher, student, method, digits, seed=seed, **settings)
            bridged = lf.distill(
                teacher, student, method, digits, seed=seed, assistants=2, baseline=False, **settings
            )
            found["labels alone"].append(direct.metrics["baseline_test_accuracy"])
            found["no assistant"].append(direct.metrics["test_accuracy"])
            found["two assistants"].append(bridged.metrics["test_accuracy"])
    return found


if __name__ == "__main__":
    for name, values in main().items():
        print(f"{name}: {statistics.fmean(values):.1%} ± {statistics.stdev(values):.1%}")
