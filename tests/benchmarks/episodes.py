"""Few-shot learning on a fixed network: prototypes beside class means by hand.

    python tests/benchmarks/episodes.py PHOTOS [--weights FILE] [--size 64] [--pairs 5]

PHOTOS has a folder for each of ten classes or more, the last five of which are judged. timm's
EfficientNet-Lite0 embeds them, with the weights in FILE, by order, or with random ones, which take as long.
Both ways hold the decoded images, compute the features once, and judge 5-way 5-shot episodes with 15 queries
a class; they take turns. (easyfsl 1.5 does not run with torch 2.14.)
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import learnforge as lf
from learnforge.artifact import from_module
from learnforge_kit import Normaliser


def ours(network: nn.Module, task: lf.Task, episodes: int) -> tuple[float, float]:
    """Return seconds and accuracy of a meta stage that judges the network as it is."""
    start = time.perf_counter()
    found = lf.meta_train(
        from_module(network, task.info),
        "protonet",
        task,
        ways=5,
        shots=5,
        iterations=0,
        test_episodes=episodes,
        validation_episodes=2,
        normalisation="running",
    )
    return time.perf_counter() - start, found.metrics["test"]["after"]


def by_hand(network: nn.Module, task: lf.Task, episodes: int) -> tuple[float, float]:
    """Return seconds and accuracy of class means over features, an episode at a time."""
    start = time.perf_counter()
    head, network.classifier = network.classifier, nn.Identity()
    features = []
    with torch.inference_mode():
        normalise = Normaliser(task.info, torch.device("cpu"))
        for images, _, _ in task.test.batches(torch.arange(len(task.test)), 256):
            features.append(network.eval()(normalise(images)))
    network.classifier = head
    embedded = torch.cat(features)
    members = [(task.test.labels == label).nonzero().flatten() for label in task.test.labels.unique()]
    right = 0
    for _ in range(episodes):
        chosen = [members[place] for place in torch.randperm(len(members))[:5].tolist()]
        drawn = torch.stack([own[torch.randperm(len(own))[:20]] for own in chosen])
        support, query = embedded[drawn[:, :5]], embedded[drawn[:, 5:]]
        distances = torch.cdist(query.flatten(0, 1), support.mean(1))
        right += int((distances.argmin(1) == torch.arange(5).repeat_interleave(15)).sum())
    return time.perf_counter() - start, right / (episodes * 75)


def load_in_order(network: nn.Module, file: Path) -> None:
    """Copy tensors by their order, where a file has other names."""
    state: dict[str, Tensor] = torch.load(file, weights_only=True)
    own = network.state_dict()
    given = [tensor for name, tensor in state.items() if "num_batches" not in name]
    names = [name for name in own if "num_batches" not in name and "classifier" not in name]
    network.load_state_dict({**own, **dict(zip(names, given, strict=False))})


def main() -> None:
    """Measure and print."""
    import timm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    unseen = sorted(folder.name for folder in given.photos.iterdir() if folder.is_dir())[-5:]
    options = {"root": str(given.photos), "size": given.size, "channels": 3, "test_classes": unseen}
    task = lf.load_task("image-folder", **options)
    network = timm.create_model("tf_efficientnet_lite0", num_classes=len(task.info.classes))
    if given.weights:
        load_in_order(network, given.weights)
    pairs = []
    for _ in range(given.pairs + 1):
        pairs.append((ours(network, task, given.episodes), by_hand(network, task, given.episodes)))
    pairs = pairs[1:]  # the first warms up
    ratios = [mine[0] / other[0] for mine, other in pairs]
    print(f"{given.episodes} episodes, {len(task.test)} images of {given.size} px")
    for name, place in (("learnforge", 0), ("by hand", 1)):
        seconds = statistics.median(pair[place][0] for pair in pairs)
        print(f"{name:<12}{seconds:>8.2f} s{pairs[0][place][1]:>9.1%}")
    print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
