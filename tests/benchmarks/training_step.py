"""Compares an epoch of `fit()` with hand-written bare torch loops: same model, data and batches, one process.

    python tests/benchmarks/training_step.py [--epochs 7] [--threads 1]

`plain` is the loop as tutorials have it, `last` the same with weights and images in `torch.channels_last`.
Epochs of the three alternate, so that noise of the machine meets all; ratios are medians over rounds, with
the least and the most beside them. timm's EfficientNet-Lite0 needs `pip install timm`.
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


def bare_epoch(
    model: nn.Module,
    info: TaskInfo,
    split: MemorySplit,
    batch_size: int,
    layout: torch.memory_format = torch.contiguous_format,
) -> float:
    """Train one epoch as one would by hand, and return the seconds of its loop."""
    mean = torch.tensor(info.mean).view(-1, 1, 1)
    std = torch.tensor(info.std).view(-1, 1, 1)
    images = (split.images.float() / 255 - mean) / std
    model.to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2, fused=True)
    model.train()
    start = time.perf_counter()
    total = torch.zeros(())
    for indices in permutation(derive(0, "order", 0), len(images)).split(batch_size):
        loss = F.cross_entropy(model(images[indices].to(memory_format=layout)), split.labels[indices])
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
    name: str,
    build: Callable[[TaskInfo], nn.Module],
    data: tuple[TaskInfo, MemorySplit],
    epochs: int,
    batch_size: int = 64,
) -> None:
    """Print what `fit` takes to either loop."""
    info, split = data
    plugins, model = Plugins(), build(info)
    rounds = []
    for _ in range(epochs + 1):
        plain = bare_epoch(copy.deepcopy(model), info, split, batch_size)
        last = bare_epoch(copy.deepcopy(model), info, split, batch_size, torch.channels_last)
        ours = fit_epoch(copy.deepcopy(model), info, split, batch_size, plugins)
        rounds.append((ours, plain, last))
    rounds = rounds[1:]  # the first warms up
    step = statistics.median(ours for ours, _, _ in rounds) * batch_size / len(split) * 1e3
    columns = ([own[0] / own[other] for own in rounds] for other in (1, 2))
    words = "".join(f"{statistics.median(c):>10.3f} ({min(c):.3f} to {max(c):.3f})" for c in columns)
    print(f"{name:<24}{step:>10.2f}{words}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plugins = Plugins()
    conv4, resnet = plugins.load("model", "conv4"), plugins.load("model", "resnet")
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.epochs} rounds of epochs")
    print(f"{'model':<24}{'fit, ms':>10}{'fit / plain':>27}{'fit / last':>27}")
    compare("conv4-16, 1×8×8", conv4(width=16, blocks=3).build, make_data(8, 1, 6400), arguments.epochs)
    compare("resnet20, 3×32×32", resnet(depth=20).build, make_data(32, 3, 1280), arguments.epochs)
    lite0 = plugins.load("model", "timm")(name="tf_efficientnet_lite0")
    compare("Lite0, 3×96×96", lite0.build, make_data(96, 3, 512), arguments.epochs, 32)


if __name__ == "__main__":
    main()
