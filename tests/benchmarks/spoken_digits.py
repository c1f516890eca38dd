"""Does the recipe for spoken digits beat what one writes by hand? Same spectrograms, splits and epochs.

    python tests/benchmarks/spoken_digits.py --data recordings --seeds 3 --runs runs/spoken-digits

runs examples/recipes/spoken-digits.toml once for each seed (a run that was cut off goes on), trains by hand,
in plain torch, a small convolutional network on the same log-mel spectrograms, and prints test accuracies,
read once for each network.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import learnforge as lf
from learnforge.recipe import read_recipe
from learnforge_plugins.progress import Lines

RECIPE = Path(__file__).parents[2] / "examples" / "recipes" / "spoken-digits.toml"
EPOCHS, BATCH, RATE, MASK = 40, 64, 0.01, 0.2


def by_hand(task: lf.Task, seed: int) -> tuple[float, int]:
    """Train as one does without learnforge; return test accuracy and parameters."""
    torch.manual_seed(seed)
    x, mean, std = task.train.images, task.info.mean[0], task.info.std[0]
    widths = (1, 16, 32, 64)
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(widths):
        layers += [
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.01)
    steps = EPOCHS * math.ceil(len(x) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            shown = masked((x[rows] - mean) / std)
            loss = F.cross_entropy(network(shown), task.train.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    with torch.no_grad():
        right = network((task.test.images - mean) / std).argmax(1) == task.test.labels
    return float(right.double().mean()), sum(p.numel() for p in network.parameters())


def masked(shown: Tensor) -> Tensor:
    """Hide a stretch of columns and one of rows, as SpecAugment does."""
    for axis in (2, 3):
        size = shown.shape[axis]
        length = torch.rand(len(shown)) * MASK * size
        start = torch.rand(len(shown)) * (size - length)
        places = torch.arange(size)
        hidden = (places >= start[:, None]) & (places < (start + length)[:, None])
        shown = shown.masked_fill(hidden[:, None, :, None] if axis == 2 else hidden[:, None, None, :], 0.0)
    return shown


def main() -> None:
    """Run, compare, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of {digit}_{speaker}_{n}.wav")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs") / "spoken-digits")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if not given.data.is_dir():
        raise SystemExit(f"{given.data} must be the folder `recordings` of the spoken digits")
    torch.set_num_threads(given.threads)
    names = ("by hand", "searched", "teacher", "without teacher", "distilled", "int8", "5-way 1-shot")
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(given.seeds):
        data = read_recipe(RECIPE)
        data["run"] |= {"seed": seed, "name": f"seed-{seed}", "device": "cpu"}
        for part in (data, data["stage"][-1]):
            part["task"]["root"] = str(given.data)
        run = lf.run(data, given.runs / f"seed-{seed}", progress=Lines())
        task = run.recipe.task_of(run.recipe.stages[0]).load()
        hand, size = by_hand(task, seed)
        made = {name: artifact.metrics for name, artifact in run.artifacts.items()}
        values = (
            hand,
            made["search"]["test_accuracy"],
            made["distill"]["teacher_test_accuracy"],
            made["distill"]["baseline_test_accuracy"],
            made["distill"]["test_accuracy"],
            made["export"]["test_accuracy"],
            made["new-digits"]["test"]["after"],
        )
        sizes = f"by hand {size:,} parameters, searched {made['search']['parameters']:,}"
        print(f"seed {seed}: {sizes}, file {made['export']['bytes']:,} bytes", flush=True)
        for name, value in zip(names, values, strict=True):
            found[name].append(value)
            print(f"  {name:16} {value:.2%}", flush=True)
    for name, own in found.items():
        spread = statistics.stdev(own) if len(own) > 1 else math.nan
        print(f"{name:16} {statistics.mean(own):7.2%} ± {100 * spread:.2f} (standard deviation)")


if __name__ == "__main__":
    main()
