"""Small made-up tasks and networks that conformance suites and tests learn in seconds."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learnforge.kinds.task import Task
from learnforge.randomness import seeded
from learnforge.spec import TaskInfo
from learnforge_kit.data.splits import MemorySplit


def make_task(classes: int = 3, count: int = 60, size: int = 8, seed: int = 0) -> Task:
    """Make a task whose class is the row of a bright stripe in noise.

    Args:
        classes: Classes, from 2 to `size`.
        count: Images in each split.
        size: Height and width in pixels.
        seed: Which noise.
    """
    names = tuple(f"stripe {i}" for i in range(classes))
    origins = tuple(f"stripes:{i}" for i in range(classes))
    info = TaskInfo("stripes", names, origins, (1, size, size), (0.3,), (0.25,))
    splits = [MemorySplit(*_stripes(classes, count, size, seed + part)) for part in range(3)]
    return Task(info, splits[0], splits[1], splits[2])


def make_network(task: TaskInfo, width: int = 8, seed: int = 0) -> nn.Module:
    """Make a small convolutional network with batch normalisation for a task, its weights from a seed.

    Args:
        task: Gives the input shape and the number of outputs.
        width: Channels of its two convolutions.
        seed: Which initial weights.
    """
    channels = task.input_shape[0]
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((task.input_shape[1], 1)),
            nn.Flatten(),
            nn.Linear(width * task.input_shape[1], task.outputs),
        )


def _stripes(classes: int, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 120, (count, 1, size, size), generator=generator)
    rows = labels * (size // classes)
    images[torch.arange(count), 0, rows] += 100
    return images.to(torch.uint8), labels
