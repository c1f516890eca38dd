"""Which images an epoch shows, and mixtures of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from attrs import evolve
from torch import Tensor

from learnforge.kinds.task import Batch
from learnforge.randomness import derive
from learnforge_kit.drawing import permutation
from learnforge_kit.training.settings import Train


def balance(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Draw as many images as there are, every class that occurs equally often (within one image).

    Args:
        labels: int64 [count], on the CPU.
        seed: Which draw.

    Returns:
        Positions in a random order, and which turn of the same image each one is, from 0: int64 [count] each.
        Within a class no image has more than one turn more than another.
    """
    present = labels.unique().tolist()
    drawn, turns = [], []
    for number, label in enumerate(present):
        share = len(labels) * (number + 1) // len(present) - len(labels) * number // len(present)
        members = (labels == label).nonzero().flatten()
        members = members[permutation(derive(seed, "class", label), len(members))]
        counter = torch.arange(share)
        drawn.append(members[counter % len(members)])
        turns.append(counter // len(members))
    order = permutation(seed, len(labels))
    return torch.cat(drawn)[order], torch.cat(turns)[order]


def make_mixer(settings: Train, classes: int) -> Callable[[Batch], Batch]:
    """Return what mixes the images of a batch and their labels, by mixup, cutmix, or one of both."""
    from torchvision.transforms import v2

    mixers: list[Callable[..., Any]] = []
    mixers += [v2.MixUp(alpha=settings.mixup, num_classes=classes)] if settings.mixup else []
    mixers += [v2.CutMix(alpha=settings.cutmix, num_classes=classes)] if settings.cutmix else []
    mixer = v2.RandomChoice(mixers)

    def mix(batch: Batch) -> Batch:
        images, soft_labels = mixer(batch.images, batch.labels)
        return evolve(batch, images=images, soft_labels=soft_labels)

    return mix
