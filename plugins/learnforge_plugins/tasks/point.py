"""A point in the plane that must find its goal: the worlds that ProMP was introduced with.

    corner      x <- x + clip(a, -0.2, 0.2)
    walls       as corner, but a circle of radius 1 and one of radius 2 let nobody out, save within 1 of a
                gap, which is elsewhere on each circle and in each task
    momentum    v <- v + clip(a, -0.1, 0.1),  x <- x + v;  v is observed too

A task is a goal near one of the corners (±2, ±2). The point starts within 0.2 of the origin on each axis,
does not observe the goal, and is told how it does by the rewards of its rollouts alone: `dense` is the
negative distance to the goal, `sparse` how much nearer than 2 it is, if it is. An episode's shots are
rollouts before adaptation, its queries rollouts after it: `episodes = { ways = 1, shots = 20, queries =
20 }`.

Reference:
    Rothfuss, Lee, Clavera, Asfour & Abbeel, ProMP: proximal meta-policy search, 2019. arXiv:1810.06784
    (section 6.3, appendix)
    Schulman et al., High-dimensional continuous control using generalized advantage estimation, 2016.
    arXiv:1506.02438 (advantages)
Differs:
    Goals are drawn around the corners, so that those of validation and test are new; the authors' are the
    four corners themselves, in training and test (here `spread = 0`).
"""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar, Literal

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, in_, le
from torch import Tensor

from learnforge import EpisodeShape, EpisodeSource, Task, TaskInfo, TaskSource, derive, hookimpl
from learnforge_kit import Estimation, MemorySplit, RolloutEpisodes, World, hashed, uniform

CORNER, REACH, PUSH, START, GAP = 2.0, 0.2, 0.1, 0.2, 1.0
"""Goals' distance on each axis, longest step on each axis, largest change of speed, spread of the start, and
how near a gap lets through."""


@frozen
class Point(TaskSource):
    """A point that must find its goal.

    Args:
        world: `corner`, `walls` or `momentum`.
        spread: How far from a corner a goal may be on each axis, from 0.
        reward: `dense` or `sparse`.
        horizon: Steps of a rollout, from 1.
        discount: Discount of later rewards in the estimation of advantages, in [0, 1].
        smoothing: lambda of generalised advantage estimation, in [0, 1].
    """

    world: Literal["corner", "walls", "momentum"] = field(
        default="corner", validator=in_(("corner", "walls", "momentum"))
    )
    spread: float = field(default=0.5, validator=ge(0.0))
    reward: Literal["dense", "sparse"] = field(default="dense", validator=in_(("dense", "sparse")))
    horizon: int = field(default=100, validator=ge(1))
    discount: float = field(default=0.99, validator=[ge(0.0), le(1.0)])
    smoothing: float = field(default=1.0, validator=[ge(0.0), le(1.0)])

    has_episodes: ClassVar[bool] = True

    def load(self) -> Task:
        options = ", ".join(f"{name} {value}" for name, value in asdict(self).items())
        info = TaskInfo(
            name=f"point, {self.world}",
            classes=("right", "up"),
            origins=(f"point:right, {options}", f"point:up, {options}"),
            input_shape=(4 if self.world == "momentum" else 2, 1, 1),
            mean=(0.0,) * (4 if self.world == "momentum" else 2),
            std=(1.0,) * (4 if self.world == "momentum" else 2),
            form="environment",
            inputs="floats",
            outputs_per_class=2,  # means and logarithms of deviations
        )
        nothing = MemorySplit.empty()
        return Task(info, nothing, nothing, nothing, self._episodes)

    def goals(self, places: Tensor, rollouts: int = 20, seed: int = 0) -> RolloutEpisodes:
        """Return episodes of goals of your own, to adapt a policy to.

        Args:
            places: float [task, 2].
            rollouts: Rollouts of each task, before adaptation and after it.
            seed: Of starts, gaps and actions.
        """
        numbers = torch.arange(len(places), device=places.device)
        make = partial(PointWorld, self, places, derive(seed, "gaps"), numbers)
        return RolloutEpisodes(make, (rollouts, rollouts), seed, numbers, self._estimation)

    @property
    def _estimation(self) -> Estimation:
        return Estimation(self.discount, self.smoothing)

    def _episodes(self, name: str, shape: EpisodeShape, device: torch.device) -> EpisodeSource:
        return PointEpisodes(self, name, shape, device)


@frozen
class PointEpisodes(EpisodeSource):
    """Draws goals.

    Args:
        task: The world.
        split: `train`, `validation` or `test`: each has goals of its own.
        shape: Rollouts before and after adaptation.
        device: Where they are made.
    """

    task: Point
    split: str
    shape: EpisodeShape
    device: torch.device

    def draw(self, seed: int, indices: Tensor) -> RolloutEpisodes:
        indices, seed = indices.to(self.device), derive(seed, self.split)
        axes = torch.arange(2, device=self.device)
        corner = hashed(derive(seed, "corner"), indices[:, None], axes) % 2 * 2 - 1
        jitter = 2 * uniform(derive(seed, "jitter"), indices[:, None], axes) - 1
        goals = CORNER * corner + self.task.spread * jitter
        make = partial(PointWorld, self.task, goals, derive(seed, "gaps"), indices)
        rollouts = self.shape.shots, self.shape.queries
        return RolloutEpisodes(make, rollouts, seed, indices, self.task._estimation)


class PointWorld(World):
    """Points of several tasks and rollouts.

    Args:
        task: Which world, reward and horizon.
        goals: float [task, 2].
        seed: Of the gaps in the walls.
        indices: int64 [task], numbers of the tasks.
        rollouts: Of each task.
    """

    actions = 2

    def __init__(self, task: Point, goals: Tensor, seed: int, indices: Tensor, rollouts: int):
        self.horizon = task.horizon
        self._task, self._goals, self._indices = task, goals[:, None], indices
        self._rollouts = torch.arange(rollouts, device=goals.device)
        towards = 2 * math.pi * uniform(seed, indices[:, None], torch.arange(2, device=goals.device))
        circle = torch.stack([towards.cos(), towards.sin()], -1)  # [task, wall, axis]
        self._gaps = [(radius, radius * circle[:, wall, None]) for wall, radius in enumerate((1.0, 2.0))]

    def reset(self, seed: int) -> Tensor:
        axes = torch.arange(2, device=self._indices.device)
        counters = self._indices[:, None, None], self._rollouts[:, None], axes
        self._place = START * (2 * uniform(derive(seed, "place"), *counters) - 1)
        self._speed = PUSH * (2 * uniform(derive(seed, "speed"), *counters) - 1)
        return self._observe()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = self._place
        if self._task.world == "momentum":
            self._speed = self._speed + actions.clamp(-PUSH, PUSH)
            self._place = before + self._speed
        else:
            self._place = before + actions.clamp(-REACH, REACH)
        if self._task.world == "walls":
            self._place = self._stopped(before, self._place)
        distance = (self._place - self._goals).norm(dim=-1)
        reward = -distance if self._task.reward == "dense" else (CORNER - distance).clamp_min(0)
        return self._observe(), reward, torch.zeros_like(reward, dtype=torch.bool)

    def _observe(self) -> Tensor:
        return torch.cat([self._place, self._speed], -1) if self._task.world == "momentum" else self._place

    def _stopped(self, before: Tensor, after: Tensor) -> Tensor:
        """Put those back onto a wall that would go through it where there is no gap."""
        for radius, gap in self._gaps:
            out = after.norm(dim=-1)
            is_stopped = (before.norm(dim=-1) <= radius) & (out > radius)
            is_stopped &= (after - gap).norm(dim=-1) > GAP
            inside = (1 - 1e-5) * radius / out  # safely so, after rounding
            after = torch.where(is_stopped[..., None], after * inside[..., None], after)
        return after


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"point": Point}
