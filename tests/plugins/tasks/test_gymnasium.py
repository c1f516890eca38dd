"""gymnasium's environments: the numbers are those of the library, tasks differ as they are told to, and what
does not fit is refused.
"""

from __future__ import annotations

import sys
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from learnforge import EpisodeShape, Plugins, RecipeError, TaskError
from learnforge.options.structure import build
from learnforge_kit import Experience

CPU = torch.device("cpu")


class Short(gymnasium.Env[Any, Any]):
    """Ends after three steps; its action is a square of four numbers."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2, 3))
    action_space = gymnasium.spaces.Box(-1, 1, (2, 2))

    closed = 0

    def __init__(self, reward: float = 1.0):
        self.reward = reward

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.steps = 0
        return np.zeros((2, 3), dtype=np.float32), {}

    def close(self) -> None:
        Short.closed += 1

    def step(self, action: Any) -> Any:
        assert action.shape == (2, 2)
        assert np.abs(action).max() <= 1
        self.steps += 1
        assert self.steps <= 3
        return np.full((2, 3), self.steps, dtype=np.float32), self.reward, self.steps == 3, False, {}


gymnasium.register("Short-v0", Short)


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the task from options."""
    return lambda **options: build(plugins.load("task", "gymnasium"), options, "test")


def still(parameters: Any, observations: Tensor) -> Tensor:
    return observations.new_zeros(*observations.shape[:2], 2 * parameters["actions"].shape[-1])


def actions(count: int) -> dict[str, Tensor]:
    return {"actions": torch.zeros(count)}


def test_rewards_are_those_of_the_library(make: Any) -> None:
    """The same actions in environments made by hand, from the same start, give the same observations and
    returns; gravity is what the task was given.
    """
    task = make(id="Pendulum-v1", vary={"g": [5.0, 15.0]})
    values = [{"g": 6.0}, {"g": 12.0}]
    support = task.episodes(values, horizon=20, rollouts=2).begin(still, actions(1)).support
    for number, own in enumerate(values):
        total = 0.0
        seen = Experience.of(support.labels[number]).actions.view(2, 20)
        for place in range(2):
            environment = gymnasium.make("Pendulum-v1", **own)
            environment.reset()
            first = support.images[number].view(2, 20, 3)[place, 0]
            angle = float(torch.atan2(first[1], first[0]))
            environment.unwrapped.state = np.array([angle, float(first[2])])  # type: ignore[attr-defined]
            for step in range(20):
                observation, reward, *_ = environment.step(seen[place, step : step + 1].clamp(-2, 2).numpy())
                total += float(reward) / 2
                if step < 19:
                    found = support.images[number].view(2, 20, 3)[place, step + 1]
                    assert torch.allclose(found, torch.tensor(observation), atol=1e-3)
        assert float(support.returns[number]) == pytest.approx(total, rel=1e-3)


def test_tasks_draw_from_their_ranges(make: Any) -> None:
    """Each split has numbers of its own, in the range, the same again."""
    task = make(id="Pendulum-v1", vary={"gravity": [5.0, 15.0]})
    with pytest.raises(TaskError, match="gymnasium cannot make Pendulum-v1"):
        task.load()
    source = {
        name: make(id="Pendulum-v1", vary={"g": [5.0, 15.0]})
        .load()
        .episodes(name, EpisodeShape(1, 1, 1), CPU)
        for name in ("train", "test")
    }

    def gravities(name: str) -> list[float]:
        world = source[name].draw(0, torch.arange(20)).make(1)
        return [row[0].unwrapped.g for row in world._copies]

    assert all(5 <= g <= 15 for g in gravities("train"))
    assert max(gravities("train")) - min(gravities("train")) > 5
    assert gravities("train") == gravities("train")
    assert not set(gravities("train")) & set(gravities("test"))


def test_ends_and_shapes(make: Any) -> None:
    """A rollout that ended is stepped no more; spaces of any shape are flattened."""
    task = make(id="Short-v0", vary={"reward": [2.0, 3.0]}, horizon=5)
    info = task.load().info
    assert info.input_shape == (6, 1, 1)
    assert len(info.classes) == 4
    Short.closed = 0
    support = task.episodes([{"reward": 2.0}], horizon=5, rollouts=3).begin(still, actions(4)).support
    assert Short.closed == 3
    assert float(support.returns) == pytest.approx(6.0)
    weights = Experience.of(support.labels[0]).weights.view(3, 5)
    assert torch.equal(weights > 0, torch.tensor([[True] * 3 + [False] * 2] * 3))


def test_what_does_not_fit_is_refused(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other spaces, no limit of steps, wrong ranges, unknown names and a missing library, each in words."""
    with pytest.raises(
        TaskError, match="CartPole-v1 must have real observations and actions, it has Discrete"
    ):
        make(id="CartPole-v1").load()
    with pytest.raises(TaskError, match="`horizon` must be given"):
        make(id="Short-v0").load()
    with pytest.raises(TaskError, match=r"vary.g must be \[lowest, highest\], got \[3.0, 1.0\]"):
        make(id="Pendulum-v1", vary={"g": [3.0, 1.0]}).load()
    with pytest.raises(TaskError, match="gymnasium cannot make Pendulums-v1"):
        make(id="Pendulums-v1").load()
    with pytest.raises(RecipeError, match="horizon"):
        make(id="Pendulum-v1", horizon=0)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(TaskError, match=r"pip install 'learnforge\[rl\]'"):
        make(id="Pendulum-v1").load()
