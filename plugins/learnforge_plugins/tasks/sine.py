"""Sine waves: the regression tasks that MAML was introduced with.

    y = A sin(x - p)        A in [0.1, 5], p in [0, pi], x in [-5, 5], all uniform               (section 5.1)

A task is one wave; its support set and its query are `ways` × `shots` and `ways` × `queries` points of it, so
five-shot regression is `episodes = { ways = 1, shots = 5, queries = 10 }`. It has episodes alone and no
images, so it is for meta stages.

Reference:
    Finn, Abbeel & Levine, Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    arXiv:1703.03400
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import gt
from torch import Tensor

from learnforge import EpisodeShape, EpisodeSource, Labelled, Task, TaskInfo, TaskSource, derive, hookimpl
from learnforge_kit import ImageEpisodes, MemorySplit, uniform


@frozen
class Sine(TaskSource):
    """Sine waves of random amplitude and phase.

    Args:
        amplitude: Largest amplitude; the smallest is 0.1. Above 0.1.
        reach: Points are drawn from [-reach, reach], above 0.
    """

    amplitude: float = field(default=5.0, validator=gt(0.1))
    reach: float = field(default=5.0, validator=gt(0.0))

    has_episodes: ClassVar[bool] = True

    def load(self) -> Task:
        info = TaskInfo(
            name="sine waves",
            classes=("y",),
            origins=(f"sine:amplitude {self.amplitude}, reach {self.reach}",),
            input_shape=(1, 1, 1),
            mean=(0.0,),
            std=(1.0,),
            form="regression",
            inputs="floats",
        )
        nothing = MemorySplit.empty()
        return Task(info, nothing, nothing, nothing, self._episodes)

    def _episodes(self, name: str, shape: EpisodeShape, device: torch.device) -> EpisodeSource:
        return SineEpisodes(self, name, shape, device)


@frozen
class SineEpisodes(EpisodeSource):
    """Draws waves and their points.

    Args:
        task: Ranges of amplitudes and points.
        split: `train`, `validation` or `test`: each has waves of its own.
        shape: Points of a wave.
        device: Where they are made.
    """

    task: Sine
    split: str
    shape: EpisodeShape
    device: torch.device

    def draw(self, seed: int, indices: Tensor) -> ImageEpisodes:
        indices, seed = indices.to(self.device), derive(seed, self.split)
        amplitude = 0.1 + (self.task.amplitude - 0.1) * uniform(derive(seed, "amplitude"), indices)
        phase = math.pi * uniform(derive(seed, "phase"), indices)
        shots, queries = (self.shape.ways * count for count in (self.shape.shots, self.shape.queries))
        points = torch.arange(shots + queries, device=self.device)
        x = self.task.reach * (2 * uniform(derive(seed, "points"), indices[:, None], points) - 1)
        y = amplitude[:, None] * torch.sin(x - phase[:, None])
        whole = Labelled(x[:, :, None, None, None], y[:, :, None])
        parts = [
            Labelled(whole.images[:, part], whole.labels[:, part])
            for part in (slice(shots), slice(shots, None))
        ]
        return ImageEpisodes(parts[0], parts[1], torch.zeros_like(indices)[:, None])


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"sine": Sine}
