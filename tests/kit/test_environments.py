"""Rollouts: advantages worked by hand, what the columns say, pure functions of the seed, and what is kept."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from learnforge import StageError
from learnforge_kit import Estimation, Experience, RolloutEpisodes, World

TASKS, ROLLOUTS, STEPS = 3, 4, 5


class Counter(World):
    """Counts its steps; a reward is the task's number plus the action, and a rollout ends after `lasts`
    steps.
    """

    horizon, actions = STEPS, 1

    def __init__(self, indices: Tensor, rollouts: int, lasts: int = STEPS):
        self.indices, self.rollouts, self.lasts = indices, rollouts, lasts

    def reset(self, seed: int) -> Tensor:
        self.count = torch.zeros(len(self.indices), self.rollouts)
        return self.count[..., None]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.count = self.count + 1
        rewards = self.indices[:, None] + actions[..., 0]
        return self.count[..., None], rewards, self.count >= self.lasts


def act(parameters: Any, observations: Tensor) -> Tensor:
    """Mean `shift` and deviation 1."""
    shift = parameters["shift"][:, None, None].expand(*observations.shape[:2], 1)
    return torch.cat([shift, torch.zeros_like(shift)], -1)


def episodes(indices: list[int], seed: int = 0, lasts: int = STEPS) -> RolloutEpisodes:
    """Begin tasks with these numbers."""
    numbers = torch.tensor(indices)
    drawn = RolloutEpisodes(
        partial(Counter, numbers, lasts=lasts), (ROLLOUTS, 2 * ROLLOUTS), seed, numbers, Estimation()
    )
    return drawn.begin(act, {"shift": torch.tensor(0.5)})


def test_columns_say_what_happened() -> None:
    """Observations, actions and the outputs of the policy that acted are one row a step, rollout after
    rollout; the return is the mean over rollouts of the sum of the rewards.
    """
    support = episodes([0, 1, 2]).support
    assert support.images.shape == (TASKS, ROLLOUTS * STEPS, 1, 1, 1)
    assert support.images[0].flatten().tolist() == list(range(STEPS)) * ROLLOUTS
    for task in range(TASKS):
        seen = Experience.of(support.labels[task])
        assert torch.equal(seen.old, torch.tensor([[0.5, 0.0]]).expand(ROLLOUTS * STEPS, 2))
        expected = (task + seen.actions[:, 0]).view(ROLLOUTS, STEPS).sum(1).mean()
        assert float(support.returns[task]) == pytest.approx(float(expected))
        assert torch.equal(seen.weights, torch.ones(ROLLOUTS * STEPS))


def test_noise_is_standard_normal() -> None:
    """Actions are mean + deviation · noise."""
    numbers = list(range(500))
    actions = Experience.of(episodes(numbers).support.labels.flatten(0, 1)).actions - 0.5
    assert abs(float(actions.mean())) < 0.03
    assert float(actions.std()) == pytest.approx(1, abs=0.02)
    assert float((actions**4).mean()) == pytest.approx(3, abs=0.2)


def test_rollouts_are_a_function_of_seed_and_number() -> None:
    """A task's rollouts are the same alone as in a batch; another seed, the query's and a second part are
    others.
    """
    whole = episodes([0, 1, 2])
    alone = episodes([1])
    assert torch.equal(whole.support.labels[1:2], alone.support.labels)
    assert not torch.equal(episodes([1], seed=1).support.labels, alone.support.labels)
    query = alone.query(alone.initial)
    assert query.labels.shape[1] == 2 * ROLLOUTS * STEPS
    actions = [Experience.of(t.labels[0]).actions[: ROLLOUTS * STEPS] for t in (alone.support, query)]
    assert not torch.equal(*actions)


def test_rollouts_are_made_once() -> None:
    """Support and query are kept, also where other parameters ask again; `begin` starts anew."""
    begun = episodes([0, 1])
    other = {"shift": torch.tensor([3.0, 3.0])}
    assert begun.support is begun.support
    first = begun.query(begun.initial)
    assert begun.query(other) is first
    assert torch.equal(begun.adapted_returns, first.returns)
    again = begun.begin(act, {"shift": torch.tensor(3.0)})
    assert float((again.support.returns - begun.support.returns).mean()) == pytest.approx(2.5 * STEPS)


def test_what_is_after_an_end_does_not_count() -> None:
    """Where rollouts end early, later samples have no weight, no advantage and no reward."""
    support = episodes([1], lasts=2).support
    seen = Experience.of(support.labels[0])
    weights, advantages = seen.weights.view(ROLLOUTS, STEPS), seen.advantages.view(ROLLOUTS, STEPS)
    assert torch.equal(weights[:, 2:], torch.zeros(ROLLOUTS, 3))
    assert float(seen.weights.mean()) == pytest.approx(1)
    assert torch.equal(advantages[:, 2:], torch.zeros(ROLLOUTS, 3))
    assert float(advantages[:, :2].mean()) == pytest.approx(0, abs=1e-6)
    expected = (1 + seen.actions.view(ROLLOUTS, STEPS)[:, :2]).sum(1).mean()
    assert float(support.returns) == pytest.approx(float(expected))


def test_advantages_are_those_of_the_definition() -> None:
    """By a plain loop over equation 16, on a baseline by least squares, for each task alone, with ends."""
    torch.manual_seed(0)
    observations = torch.randn(TASKS, 30, STEPS, 2).double()
    rewards = torch.randn(TASKS, 30, STEPS).double()
    present = (torch.arange(STEPS) < torch.randint(1, STEPS + 1, (TASKS, 30, 1))).double()
    rewards = rewards * present
    gamma, smoothing = 0.9, 0.7
    found = Estimation(gamma, smoothing).advantages(observations, rewards, present)
    for task in range(TASKS):
        rows, targets = [], []
        for rollout in range(30):
            for t in range(int(present[task, rollout].sum())):
                o = observations[task, rollout, t].clamp(-10, 10)
                rows.append([*o.tolist(), *(o**2).tolist(), 1, t / 100, (t / 100) ** 2, (t / 100) ** 3])
                later = rewards[task, rollout, t:]
                targets.append(sum(gamma**k * float(r) for k, r in enumerate(later)))
        features, returns = torch.tensor(rows).double(), torch.tensor(targets).double()
        gram = features.T @ features + 1e-5 * torch.eye(8).double()
        values = features @ torch.linalg.solve(gram, features.T @ returns)
        expected, start = [], 0
        for rollout in range(30):
            steps = int(present[task, rollout].sum())
            own = [*values[start : start + steps].tolist(), 0.0]
            deltas = [float(rewards[task, rollout, t]) + gamma * own[t + 1] - own[t] for t in range(steps)]
            expected += [
                sum((gamma * smoothing) ** k * d for k, d in enumerate(deltas[t:])) for t in range(steps)
            ]
            start += steps
        wanted = torch.tensor(expected).double()
        wanted = (wanted - wanted.mean()) / (wanted.std(correction=0) + 1e-8)
        assert torch.allclose(found[task][present[task] > 0], wanted, atol=1e-6)


def test_likelihood_ratio_and_divergence_are_those_of_torch() -> None:
    """Log-density, ratio and divergence of diagonal Gaussians, against torch.distributions."""
    torch.manual_seed(0)
    labels, outputs = torch.randn(7, 3 * 2 + 2).double(), torch.randn(7, 4).double()
    seen = Experience.of(labels)
    assert seen.actions.shape == (7, 2)
    assert seen.old.shape == (7, 4)

    def policy(of: Tensor) -> Any:
        mean, log_std = of.chunk(2, -1)
        return Independent(Normal(mean, log_std.exp()), 1)

    new, old = policy(outputs), policy(seen.old)
    assert torch.allclose(seen.log_likelihood(outputs), new.log_prob(seen.actions))
    ratio = new.log_prob(seen.actions) - old.log_prob(seen.actions)
    assert torch.allclose(seen.log_ratio(outputs), ratio)
    assert torch.allclose(seen.divergence(outputs), kl_divergence(old, new))
    assert torch.equal(seen.divergence(seen.old), torch.zeros(7).double())


def test_a_policy_is_needed() -> None:
    """Rollouts before `begin`, and a network with other outputs than a policy's, are refused."""
    numbers = torch.tensor([0])
    drawn = RolloutEpisodes(partial(Counter, numbers), (1, 1), 0, numbers, Estimation())
    with pytest.raises(StageError, match="must be told by `begin` which policy acts"):
        _ = drawn.support

    def narrow(parameters: Any, observations: Tensor) -> Tensor:
        return observations.flatten(2)

    with pytest.raises(StageError, match="must give 1 means and 1 logarithms of deviations"):
        _ = drawn.begin(narrow, {}).support
