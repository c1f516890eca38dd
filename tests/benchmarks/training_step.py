"""Compares an epoch of `fit()` with a hand-written bare torch loop: same model, data and batches, one
process.

    python tests/benchmarks/training_step.py [--epochs 7] [--threads 1]

Epochs of the two alternate, so that noise of the machine meets both; the ratio is the median over pairs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from learnforge import Context, Plugins, TaskInfo
from learnforge.randomness import derive
from learnforge_kit import MemorySplit, Train
from learnforge_kit.drawing import permutation
from learnforge_kit.training.loop import Trainee, fit
from learnforge_kit.training.losses import supervised_loss


def make_data(size: int, channels: int, images: int) -> tuple[TaskInfo, MemorySplit]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, channels, size, size), generator=generator, dtype=torch.uint8)
    names = tuple(map(str, range(10)))
    shape = (channels, size, size)
    info = TaskInfo("random pixels", names, names, shape, (0.5,) * channels, (0.25,) * channels)
    return info, MemorySplit(pixels, torch.randint(0, 10, (images,), generator=generator))


def bare_epoch(model: nn.Module, info: TaskInfo, split: MemorySplit, batch_size: int, seed: int) -> float:
    """Train one epoch as one would by hand, and return the seconds of its loop."""
    mean = torch.tensor(info.mean).view(-1, 1, 1)
    std = torch.tensor(info.std).view(-1, 1, 1)
    images = (split.images.float() / 255 - mean) / std
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2, fused=True)
    model.train()
    start = time.perf_counter()
    total = torch.zeros(())
    for indices in permutation(derive(seed, "order", 0), len(images)).split(batch_size):
        loss = F.cross_entropy(model(images[indices]), split.labels[indices])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    total.item()
    return time.perf_counter() - start


def fit_epoch(
    model: nn.Module, info: TaskInfo, split: MemorySplit, batch_size: int, plugins: Plugins
) -> float:
    """Train one epoch with `fit` and return its seconds, set-up included."""
    settings = Train(epochs=1, batch_size=batch_size, schedule="constant")
    context = Context("benchmark", 0, torch.device("cpu"), plugins)
    start = time.perf_counter()
    fit(Trainee(model, supervised_loss(model)), split, info, settings, context, "epoch")
    return time.perf_counter() - start


def compare(
    name: str, build: Callable[[TaskInfo], nn.Module], data: tuple[TaskInfo, MemorySplit], epochs: int
) -> float:
    info, split = data
    plugins, model = Plugins(), build(info)
    ratios, ours, bares = [], [], []
    for number in range(epochs + 1):
        bare = bare_epoch(copy.deepcopy(model), info, split, 64, 0)
        our = fit_epoch(copy.deepcopy(model), info, split, 64, plugins)
        if number > 0:  # the first pair warms up
            ratios.append(our / bare)
            ours.append(our)
            bares.append(bare)
    ratio = statistics.median(ratios)
    bare, our = (statistics.median(times) * 64 / len(split) * 1e3 for times in (bares, ours))
    print(f"{name:<24}{bare:>10.2f}{our:>10.2f}{ratio:>8.3f}{min(ratios):>8.3f}{max(ratios):>8.3f}")
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plugins = Plugins()
    conv4, resnet = plugins.load("model", "conv4"), plugins.load("model", "resnet")
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.epochs} pairs of epochs")
    print(f"{'model':<24}{'bare ms':>10}{'fit ms':>10}{'ratio':>8}{'least':>8}{'most':>8}")
    compare("conv4-16, 1×8×8", conv4(width=16, blocks=3).build, make_data(8, 1, 6400), arguments.epochs)
    compare("resnet20, 3×32×32", resnet(depth=20).build, make_data(32, 3, 1280), arguments.epochs)


if __name__ == "__main__":
    main()
