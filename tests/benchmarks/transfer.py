"""Compares what a transfer costs with a frozen backbone, and on cached features, with full fine-tuning.

    python tests/benchmarks/transfer.py [--rounds 5] [--threads 1]

resnet20 on random pixels, 3 × 32 × 32, batches of 64. In every round each way trains one epoch, after one to
warm up; ratios are medians over rounds.

full     `fine-tune`, every parameter
frozen   `fine-tune` with `backbone_rate = 0`: the head alone, so that nothing is pulled back through the rest
probe    one pass of logistic regression over the features that `linear-probe` keeps, loss and gradient; the
         images went through the network once before, which is what `features` takes
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnforge import Phase, Plugins, Task, TaskInfo
from learnforge.context import Context
from learnforge_kit import MemorySplit, Train, extract_features, find_head
from learnforge_kit.training.loop import Trainee, fit
from learnforge_kit.training.losses import supervised_loss
from learnforge_plugins.stages.transfer.freezing import freeze, set_training

IMAGES, BATCH = 1280, 64


def make_task() -> Task:
    """Random pixels."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, 32, 32), generator=generator, dtype=torch.uint8)
    names = tuple(map(str, range(10)))
    info = TaskInfo("random pixels", names, names, (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
    train = MemorySplit(pixels, torch.randint(0, 10, (IMAGES,), generator=generator))
    return Task(info, train, train, train)


def epoch(network: nn.Module, rates: dict[str, float], task: Task, plugins: Plugins) -> float:
    """Train two epochs with a phase's rates; return the seconds of the second."""
    phase, settings = Phase(rates), Train(epochs=2, batch_size=BATCH)
    ends: list[float] = []
    context = Context(
        "benchmark", 0, torch.device("cpu"), plugins, emit=lambda *a, **k: ends.append(time.perf_counter())
    )
    trainee = Trainee(
        network,
        supervised_loss(network),
        freeze(network, phase),
        set_mode=lambda: set_training(network, phase),
    )
    fit(trainee, task.train, task.info, settings, context, "transfer")
    return ends[1] - ends[0]


def probe_pass(features: Tensor, labels: Tensor) -> float:
    """Return the seconds of a pass over cached features, loss and gradient, the second of two."""
    head = nn.Linear(features.shape[1], 10)
    for _ in range(2):
        start = time.perf_counter()
        F.cross_entropy(head(features), labels).backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plugins, task = Plugins(), make_task()
    torch.manual_seed(0)
    network = plugins.load("model", "resnet")(depth=20).build(task.info)
    head = find_head(network, task.info)
    start = time.perf_counter()
    features = extract_features(network, task.train, task.info)
    extraction = time.perf_counter() - start
    ways: dict[str, Callable[[], float]] = {
        "full": lambda: epoch(network, {"": 1.0}, task, plugins),
        "frozen": lambda: epoch(network, {head: 1.0}, task, plugins),
        "probe": lambda: probe_pass(features, task.train.labels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, run in ways.items():
            seconds[name].append(run())
    full = seconds["full"]
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.rounds} rounds")
    print(f"{'way':<10}{'seconds':>10}{'full / it':>12}{'least':>10}{'most':>10}")
    for name, own in seconds.items():
        ratios = [whole / part for whole, part in zip(full, own, strict=True)]
        middle = statistics.median(ratios)
        print(
            f"{name:<10}{statistics.median(own):>10.4f}{middle:>12.2f}{min(ratios):>10.2f}{max(ratios):>10.2f}"
        )
    share = statistics.median(full) / extraction
    print(f"features once: {extraction:.3f} seconds; a full epoch takes {share:.2f} times as long")


if __name__ == "__main__":
    main()
