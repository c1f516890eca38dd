"""Does a hardware-limited search beat the hand-made resnet8? Same images, epochs, batches and optimiser for
both.

    python tests/benchmarks/cifar10_search.py --data cifar10 --seeds 3 --runs runs/cifar10

runs examples/recipes/cifar10-search.toml once for each seed (a run that was cut off goes on), trains a
resnet8 as the recipe retrains what it found, and prints test accuracies, read once for each network.
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch

import learnforge as lf
from learnforge.randomness import seeded
from learnforge.recipe import read_recipe
from learnforge_kit.training.loop import Trainee, fit
from learnforge_kit.training.losses import supervised_loss
from learnforge_kit.training.measures import judge, measure_costs
from learnforge_plugins.progress import Lines

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "cifar10-search.toml"


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "cifar10-search")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if not (given.data / "train").is_dir():
        raise SystemExit(f"{given.data} must hold train/ and test/ with a folder for each class")
    torch.set_num_threads(given.threads)
    gains = []
    columns = ("validation", "test", "parameters", "macs", "latency")
    print("seed network   ", *columns)
    for seed in range(given.seeds):
        found, hand_made = compare(seed, given)
        for name, m in (("searched", found), ("resnet8", hand_made)):
            scores = f"{m['validation_accuracy']:10.2%} {m['test_accuracy']:7.2%}"
            costs = f"{m['parameters']:10,} {m['macs']:11,} {m['latency_ms']:6.2f}ms"
            print(f"{seed:4} {name:10} {scores} {costs}", flush=True)
        gains.append(100 * (found["test_accuracy"] - hand_made["test_accuracy"]))
    error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    print(f"searched better by {statistics.mean(gains):.2f} ± {error:.2f} points (mean ± standard error)")


def compare(seed: int, given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the search found, and the resnet8 of the same seed."""
    data = read_recipe(RECIPE)
    data["run"] |= {"seed": seed, "name": f"seed-{seed}", "device": "cpu"}
    data["task"]["root"] = str(given.data)
    run = lf.run(data, given.runs / f"seed-{seed}", progress=Lines())
    (stage,) = run.recipe.stages
    plugins = lf.Plugins()
    task = run.recipe.task_of(stage).load()
    with seeded(seed):
        network = lf.load_method("model.resnet", plugins)(depth=8).build(task.info)
    train = stage.longer  # type: ignore[attr-defined]
    context = lf.Context("resnet8", seed, torch.device("cpu"), plugins, given.runs / f"resnet8-{seed}")
    fit(Trainee(network, supervised_loss(network)), task.train, task.info, train, context, "resnet8")
    return dict(run.artifacts[stage.name].metrics), {
        **judge(network, task).as_metrics(),
        **measure_costs(network, task).as_metrics(),
    }


if __name__ == "__main__":
    main()
