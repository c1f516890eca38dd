"""Environments as episodes: rollouts of a policy, before adaptation and after it, with what a policy gradient
is made of.

A task is an environment of its own, such as another goal. Its support set are rollouts of the policy before
adaptation, its query rollouts of the adapted one. Policies are diagonal Gaussians over real actions: a
network gives the means and then the logarithms of the standard deviations, [sample, 2 · action]. All tasks,
and all rollouts of a task, are stepped together; an action's noise is a pure function of the seed and of its
place, so that the same policies act in the same way wherever they run.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from attrs import evolve, field, frozen
from torch import Tensor

from learnforge.errors import StageError
from learnforge.kinds.seen.episodes import Act, Episodes, Labelled
from learnforge.randomness import derive
from learnforge_kit.drawing import normal


@frozen(eq=False)
class Trajectories(Labelled):
    """Rollouts of several tasks, as labelled samples: a policy's loss is a function of its outputs and
    of them.

    Args:
        images: float [task, sample, observation, 1, 1]: what was observed, one rollout after the other.
        labels: float [task, sample, column]; `Experience` names the columns.
        returns: float [task]: the sum of a rollout's rewards, averaged over the rollouts.
    """

    returns: Tensor


@frozen(eq=False)
class Experience:
    """What the rows of labels of one task's trajectories say.

    Args:
        actions: [sample, action].
        advantages: [sample]: mean 0 and deviation 1 within the task.
        weights: [sample]: 0 for what would be after a rollout's end; mean 1.
        old: [sample, 2 · action]: outputs of the policy that acted.
    """

    actions: Tensor
    advantages: Tensor
    weights: Tensor
    old: Tensor

    @classmethod
    def of(cls, labels: Tensor) -> Experience:
        """Name the columns of [sample, 3 · action + 2]."""
        actions = (labels.shape[-1] - 2) // 3
        own, advantages, weights, old = labels.split([actions, 1, 1, 2 * actions], -1)
        return cls(own, advantages.squeeze(-1), weights.squeeze(-1), old)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of [sample] over the samples that there are."""
        return (self.weights * values).mean()

    def log_likelihood(self, outputs: Tensor) -> Tensor:
        """Return log pi(action) for a policy's outputs: from [sample, 2 · action] to [sample]."""
        return _log_density(outputs, self.actions)

    def log_ratio(self, outputs: Tensor) -> Tensor:
        """Return log pi(action) - log pi_old(action): from [sample, 2 · action] to [sample]."""
        return _log_density(outputs, self.actions) - _log_density(self.old, self.actions)

    def divergence(self, outputs: Tensor) -> Tensor:
        """Return KL(pi_old || pi): from [sample, 2 · action] to [sample]."""
        old_mean, old_log_std = self.old.chunk(2, -1)
        mean, log_std = outputs.chunk(2, -1)
        spread = torch.exp(2 * (old_log_std - log_std)) + ((mean - old_mean) * torch.exp(-log_std)) ** 2
        return (log_std - old_log_std + 0.5 * (spread - 1)).sum(-1)


def _log_density(outputs: Tensor, actions: Tensor) -> Tensor:
    mean, log_std = outputs.chunk(2, -1)
    scaled = (actions - mean) * torch.exp(-log_std)
    return (-0.5 * scaled**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


class World(ABC):
    """Copies of the environments of several tasks, which are stepped together.

    Attributes:
        horizon: Steps of a rollout at most.
        actions: Numbers of an action.
    """

    horizon: int
    actions: int

    @abstractmethod
    def reset(self, seed: int) -> Tensor:
        """Begin all rollouts afresh, a pure function of the seed.

        Returns:
            Observations, float [task, rollout, observation].
        """

    @abstractmethod
    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take a step in each copy.

        Args:
            actions: float [task, rollout, action]; what is too large is the world's to clip.

        Returns:
            Observations [task, rollout, observation], rewards [task, rollout], and which rollouts are over,
            bool [task, rollout]. What a rollout gives after its end does not count.
        """

    def close(self) -> None:
        """Let go of what the world holds outside of Python; called when its rollouts are done."""


@frozen
class Estimation:
    """How advantages are estimated: generalised, over a baseline that is linear in features of state
    and time.

    The baseline is fitted to the returns of the same rollouts. The end of the horizon is an end as any other.

    Args:
        discount: gamma, in [0, 1].
        smoothing: lambda, in [0, 1]; 1 takes the returns that were observed, less the baseline.

    Reference:
        Schulman et al., High-dimensional continuous control using generalized advantage estimation, 2016.
        arXiv:1506.02438 (equation 16)
        Duan et al., Benchmarking deep reinforcement learning for continuous control, 2016. arXiv:1604.06778
        (supplement, section 2: the baseline)
    """

    discount: float = 0.99
    smoothing: float = 1.0

    def advantages(self, observations: Tensor, rewards: Tensor, present: Tensor) -> Tensor:
        """Return advantages, normalised within each task: [task, rollout, step].

        Args:
            observations: float [task, rollout, step, observation].
            rewards: float [task, rollout, step], 0 after a rollout's end.
            present: float [task, rollout, step]: 1 up to a rollout's end, 0 after it.
        """
        baseline = self._baseline(observations, self._sums(rewards, self.discount), present)
        after = torch.cat([baseline[..., 1:], torch.zeros_like(baseline[..., :1])], -1)
        surprises = rewards + self.discount * after - baseline
        found = self._sums(surprises, self.discount * self.smoothing) * present
        count = present.sum((1, 2), keepdim=True)
        centred = (found - found.sum((1, 2), keepdim=True) / count) * present
        deviation = (centred.square().sum((1, 2), keepdim=True) / count).sqrt()
        return centred / (deviation + 1e-8)

    def _baseline(self, observations: Tensor, returns: Tensor, present: Tensor) -> Tensor:
        """Return a ridge regression of the returns, fitted to each task: [task, rollout, step]."""
        tasks, _, steps, _ = observations.shape
        seen = observations.clamp(-10, 10)
        time = torch.arange(steps, device=seen.device, dtype=seen.dtype) / 100
        powers = torch.stack([time**power for power in range(4)], -1).expand(*seen.shape[:3], 4)
        features = torch.cat([seen, seen**2, powers], -1) * present[..., None]
        flat = features.reshape(tasks, -1, features.shape[-1]).double()
        targets = (returns * present).reshape(tasks, -1, 1).double()
        gram = flat.mT @ flat + 1e-5 * torch.eye(flat.shape[-1], dtype=flat.dtype, device=flat.device)
        fitted: Tensor = flat @ torch.linalg.solve(gram, flat.mT @ targets)
        return fitted.to(returns.dtype).view(returns.shape)

    def _sums(self, values: Tensor, factor: float) -> Tensor:
        """Return the discounted sum of each value and all later ones, along the last axis."""
        sums = [torch.zeros_like(values[..., 0])]
        for value in reversed(values.unbind(-1)):
            sums.append(value + factor * sums[-1])
        return torch.stack(sums[:0:-1], -1)


@frozen(eq=False)
class RolloutEpisodes(Episodes):
    """A batch of environments. Before `begin` says which policy acts, there are no rollouts.

    Rollouts are made when they are first asked for, and then kept: asked again, also with other parameters,
    support and query are the same ones.

    Args:
        make: Makes the batch's worlds, from the number of rollouts of each task.
        rollouts: Of each task, before adaptation and after it.
        seed: Of the sequence of episodes.
        indices: int64 [task], numbers in that sequence.
        estimation: How advantages are estimated.
        act: Runs the policies of all tasks.
        initial: The policy before adaptation, {parameter name: [task, …]}.
    """

    are_rollouts: ClassVar[bool] = True

    make: Callable[[int], World]
    rollouts: tuple[int, int]
    seed: int
    indices: Tensor
    estimation: Estimation
    act: Act | None = None
    initial: Mapping[str, Tensor] = field(factory=dict)
    _kept: dict[str, Trajectories] = field(factory=dict, init=False)

    def begin(self, act: Act, parameters: Mapping[str, Tensor]) -> RolloutEpisodes:
        tasks = len(self.indices)
        initial = {name: t.detach().expand(tasks, *t.shape) for name, t in parameters.items()}
        return evolve(self, act=act, initial=initial)

    @property
    def support(self) -> Trajectories:
        if "support" not in self._kept:
            self._kept["support"] = self.rollout(self.initial, "support")
        return self._kept["support"]

    def query(self, adapted: Any) -> Trajectories:
        if "query" not in self._kept:
            self._kept["query"] = self.rollout(adapted, "query")
        return self._kept["query"]

    @property
    def adapted_returns(self) -> Tensor:
        """Returns of the policies that the query was asked for with, [task]."""
        return self._kept["query"].returns

    def rollout(self, parameters: Any, part: str) -> Trajectories:
        """Let policies act.

        Args:
            parameters: {parameter name: [task, …]}.
            part: `support` or `query`: how many rollouts, and which noise.
        """
        if self.act is None:
            raise StageError("episodes of an environment must be told by `begin` which policy acts")
        world = self.make(self.rollouts[part == "query"])
        try:
            return _joined(self._steps(self.act, world, parameters, derive(self.seed, part)), self.estimation)
        finally:
            world.close()

    def _steps(self, act: Act, world: World, parameters: Any, seed: int) -> list[tuple[Tensor, ...]]:
        """Return observations, actions, rewards, which rollouts were going on, and outputs of each step."""
        observations = world.reset(derive(seed, "start"))
        alive = torch.ones_like(observations[..., 0])
        columns: list[tuple[Tensor, ...]] = []
        noise = self._noise(derive(seed, "noise"), observations.shape[1], world)
        for step in range(world.horizon):
            outputs = act(parameters, observations[..., None, None])
            if outputs.shape[-1] != 2 * world.actions:
                raise StageError(
                    f"a policy must give {world.actions} means and {world.actions} logarithms of deviations, "
                    f"the network has {outputs.shape[-1]} outputs"
                )
            mean, log_std = outputs.chunk(2, -1)
            actions = mean + log_std.exp() * noise[:, :, step].to(mean.dtype)
            following, rewards, is_over = world.step(actions)
            columns.append((observations, actions, rewards * alive, alive, outputs))
            alive = alive * ~is_over
            observations = following
        return columns

    def _noise(self, seed: int, count: int, world: World) -> Tensor:
        """Draw standard normal numbers: [task, rollout, step, action]."""
        indices = self.indices
        sizes = (count, world.horizon, world.actions)
        rollouts, steps, places = (torch.arange(size, device=indices.device) for size in sizes)
        return normal(seed, indices[:, None, None, None], rollouts[:, None, None], steps[:, None], places)


def _joined(columns: list[tuple[Tensor, ...]], estimation: Estimation) -> Trajectories:
    """Lay a list of steps out as samples."""
    observations, actions, rewards, present, outputs = (
        torch.stack(column, 2) for column in zip(*columns, strict=True)
    )
    advantages = estimation.advantages(observations, rewards, present)
    weights = present / present.mean((1, 2), keepdim=True)
    parts = [actions, advantages[..., None], weights[..., None], outputs]
    return Trajectories(
        observations.flatten(1, 2)[..., None, None],
        torch.cat(parts, -1).flatten(1, 2),
        rewards.sum(2).mean(1),
    )
