"""Environments of gymnasium with real observations and actions, whose physics differ from task to task
(extra `rl`).

    task = { use = "gymnasium", id = "Pendulum-v1", vary = { g = [6.0, 14.0] } }

A task is the environment made with its own numbers for the arguments that `vary` names, each drawn evenly
from its range; another split draws others. What an environment gives and takes is flattened; actions are
clipped to its bounds.

Reference:
    Towers et al., Gymnasium: a standard interface for reinforcement learning environments, 2024.
    arXiv:2407.17032
    Schulman et al., High-dimensional continuous control using generalized advantage estimation, 2016.
    arXiv:1506.02438 (advantages)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from attrs import asdict, field, frozen
from attrs.validators import ge, le, min_len, optional
from torch import Tensor

from learnforge import EpisodeShape, EpisodeSource, Task, TaskError, TaskInfo, TaskSource, derive, hookimpl
from learnforge_kit import Estimation, MemorySplit, RolloutEpisodes, World, uniform


@frozen
class Gymnasium(TaskSource):
    """An environment of gymnasium.

    Args:
        id: Its name, such as `Pendulum-v1`, or `my_package:My-v0` for one that a package registers when it
            is imported.
        vary: {argument: [lowest, highest]} of the environment, drawn for each task.
        horizon: Steps of a rollout at most, from 1; the environment's own by default.
        discount: Discount of later rewards in the estimation of advantages, in [0, 1].
        smoothing: lambda of generalised advantage estimation, in [0, 1].
    """

    id: str = field(validator=min_len(1))
    vary: dict[str, tuple[float, float]] = field(factory=dict)
    horizon: int | None = field(default=None, validator=optional(ge(1)))
    discount: float = field(default=0.99, validator=[ge(0.0), le(1.0)])
    smoothing: float = field(default=1.0, validator=[ge(0.0), le(1.0)])

    has_episodes: ClassVar[bool] = True

    def load(self) -> Task:
        for name, ends in self.vary.items():
            if not ends[0] < ends[1]:
                raise TaskError(f"vary.{name} must be [lowest, highest], got {list(ends)}")
        environment = self.make({name: ends[0] for name, ends in self.vary.items()})
        horizon = self.horizon or (environment.spec and environment.spec.max_episode_steps)
        if not horizon:
            raise TaskError(f"{self.id} has no limit of steps of its own, so `horizon` must be given")
        observed = _size(self.id, environment.observation_space)
        acts = _size(self.id, environment.action_space)
        environment.close()
        options = ", ".join(f"{name} {value}" for name, value in asdict(self).items())
        names = tuple(f"action {number + 1}" for number in range(acts))
        info = TaskInfo(
            name=self.id,
            classes=names,
            origins=tuple(f"gymnasium:{name}, {options}" for name in names),
            input_shape=(observed, 1, 1),
            mean=(0.0,) * observed,
            std=(1.0,) * observed,
            form="environment",
            inputs="floats",
            outputs_per_class=2,  # means and logarithms of deviations
        )
        nothing = MemorySplit.empty()
        return Task(info, nothing, nothing, nothing, partial(GymnasiumEpisodes, self, horizon))

    def make(self, numbers: Mapping[str, float]) -> Any:
        """Make one environment.

        Raises:
            TaskError: gymnasium is missing, or does not know it or its arguments.
        """
        library = _gymnasium()
        try:
            return library.make(self.id, disable_env_checker=True, **numbers)
        except Exception as error:  # gymnasium's own, or whatever the environment raises
            raise TaskError(f"gymnasium cannot make {self.id} with {dict(numbers)}: {error}") from error

    def episodes(
        self, values: Sequence[Mapping[str, float]], horizon: int, rollouts: int = 20, seed: int = 0
    ) -> RolloutEpisodes:
        """Return episodes of environments of your own, to adapt a policy to.

        Args:
            values: Arguments of each environment.
            horizon: Steps of a rollout at most.
            rollouts: Rollouts of each task, before adaptation and after it.
            seed: Of starts and actions.
        """
        numbers = torch.arange(len(values))
        make = partial(GymnasiumWorld, self, values, horizon, numbers)
        return RolloutEpisodes(make, (rollouts, rollouts), seed, numbers, self.estimation)

    @property
    def estimation(self) -> Estimation:
        """How advantages are estimated."""
        return Estimation(self.discount, self.smoothing)


@frozen
class GymnasiumEpisodes(EpisodeSource):
    """Draws environments.

    Args:
        task: Which ones.
        horizon: Steps of a rollout at most.
        split: `train`, `validation` or `test`: each has numbers of its own.
        shape: Rollouts before and after adaptation.
        device: Where rollouts are handed out.
    """

    task: Gymnasium
    horizon: int
    split: str
    shape: EpisodeShape
    device: torch.device

    def draw(self, seed: int, indices: Tensor) -> RolloutEpisodes:
        indices, seed = indices.to(self.device), derive(seed, self.split)
        drawn = {
            name: (low + (high - low) * uniform(derive(seed, name), indices)).tolist()
            for name, (low, high) in self.task.vary.items()
        }
        values = [{name: own[task] for name, own in drawn.items()} for task in range(len(indices))]
        make = partial(GymnasiumWorld, self.task, values, self.horizon, indices)
        rollouts = self.shape.shots, self.shape.queries
        return RolloutEpisodes(make, rollouts, seed, indices, self.task.estimation)


class GymnasiumWorld(World):
    """Copies of the environments, stepped one after the other.

    Args:
        task: Which environment.
        values: Arguments of each task's.
        horizon: Steps of a rollout at most.
        indices: int64 [task], numbers of the tasks.
        rollouts: Of each task.
    """

    def __init__(
        self,
        task: Gymnasium,
        values: Sequence[Mapping[str, float]],
        horizon: int,
        indices: Tensor,
        rollouts: int,
    ):
        self.horizon, self._indices = horizon, indices
        self._copies = [[task.make(own) for _ in range(rollouts)] for own in values]
        self._space = self._copies[0][0].action_space
        self.actions = _size(task.id, self._space)
        low, high = (torch.tensor(end).flatten() for end in (self._space.low, self._space.high))
        self._low, self._high = low.to(indices.device), high.to(indices.device)

    def reset(self, seed: int) -> Tensor:
        self._seen = [
            [_flat(copy.reset(seed=derive(seed, number, place) % 2**31)[0]) for place, copy in enumerate(row)]
            for number, row in zip(self._indices.tolist(), self._copies, strict=True)
        ]
        self._is_over = [[False] * len(row) for row in self._copies]
        return self._observe()

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chosen = actions.clamp(self._low, self._high).cpu().numpy()
        rewards = actions.new_zeros(actions.shape[:2], device="cpu")
        for task, row in enumerate(self._copies):
            for place, copy in enumerate(row):
                if self._is_over[task][place]:
                    continue
                action = chosen[task, place].reshape(self._space.shape).astype(self._space.dtype)
                seen, reward, ended, cut, _ = copy.step(action)
                self._seen[task][place], rewards[task, place] = _flat(seen), float(reward)
                self._is_over[task][place] = bool(ended or cut)
        device = self._indices.device
        return self._observe(), rewards.to(device), torch.tensor(self._is_over, device=device)

    def close(self) -> None:
        for copy in (copy for row in self._copies for copy in row):
            copy.close()

    def _observe(self) -> Tensor:
        return torch.stack([torch.stack(row) for row in self._seen]).to(self._indices.device)


def _flat(observation: Any) -> Tensor:
    return torch.as_tensor(observation, dtype=torch.float32).flatten()


def _size(name: str, space: Any) -> int:
    """Return how many numbers a space of real numbers has.

    Raises:
        TaskError: It is of another sort.
    """
    box = _gymnasium().spaces.Box
    if not isinstance(space, box) or space.dtype.kind != "f":
        raise TaskError(f"{name} must have real observations and actions, it has {space}")
    size: int = torch.Size(space.shape).numel()
    return size


def _gymnasium() -> Any:
    try:
        import gymnasium
    except ImportError as error:
        raise TaskError("gymnasium's environments need it: pip install 'learnforge[rl]'") from error
    return gymnasium


@hookimpl
def learnforge_tasks() -> dict[str, type[TaskSource]]:
    return {"gymnasium": Gymnasium}
