"""Points: goals near the corners, new ones in each split, and the three worlds step by step."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from learnforge import EpisodeShape, Plugins, RecipeError
from learnforge.options.structure import build
from learnforge_kit import Experience

CPU = torch.device("cpu")


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the task from options."""
    return lambda **options: build(plugins.load("task", "point"), options, "test")


def world(task: Any, goals: list[list[float]], rollouts: int = 1) -> Any:
    """Make and reset a world with these goals."""
    made = task.goals(torch.tensor(goals)).make(rollouts)
    made.reset(0)
    return made


def still(parameters: Any, observations: Tensor) -> Tensor:
    return observations.new_zeros(*observations.shape[:2], 4)


def test_goals_are_near_corners_and_new_in_each_split(make: Any) -> None:
    """All corners occur as often, goals fill the squares around them, and no split has another's goals."""
    task, found = make(spread=0.5).load(), {}
    for name in ("train", "validation", "test"):
        source = task.episodes(name, EpisodeShape(1, 2, 3), CPU)
        found[name] = source.draw(0, torch.arange(400)).make(1)._goals[:, 0]
        assert ((found[name].abs() - 2).abs() <= 0.5).all()
        corners = (found[name] > 0).long() @ torch.tensor([1, 2])
        assert corners.bincount().min() > 70
        assert (found[name].abs() - 2).abs().max() > 0.49
    every = torch.cat(list(found.values()))
    assert len(every.unique(dim=0)) == 1200
    exact = make(spread=0.0).load().episodes("test", EpisodeShape(1, 2, 3), CPU)
    goals = exact.draw(0, torch.arange(50)).make(1)._goals
    assert torch.equal(goals.abs(), torch.full((50, 1, 2), 2.0))


def test_a_step_is_clipped_and_rewarded_by_the_distance(make: Any) -> None:
    """In `corner` a step is at most 0.2 on each axis, and its reward the negative distance after it."""
    made = world(make(), [[2.0, -2.0]])
    before = made._place.clone()
    assert before.abs().max() <= 0.2
    seen, reward, is_over = made.step(torch.tensor([[[5.0, -0.1]]]))
    assert torch.allclose(seen - before, torch.tensor([0.2, -0.1]))
    assert float(reward) == pytest.approx(-float((seen[0, 0] - torch.tensor([2.0, -2.0])).norm()))
    assert not is_over.any()


def test_sparse_rewards_are_none_far_away(make: Any) -> None:
    """`sparse` gives how much nearer than 2 the goal is."""
    made = world(make(reward="sparse"), [[2.0, 2.0]])
    made._place = torch.tensor([[[0.0, 0.0]]])
    assert float(made.step(torch.zeros(1, 1, 2))[1]) == 0
    made._place = torch.tensor([[[2.0, 1.0]]])
    assert float(made.step(torch.zeros(1, 1, 2))[1]) == pytest.approx(1.0)


def test_momentum_adds_up(make: Any) -> None:
    """In `momentum` actions change the speed, by 0.1 at most, and it is observed."""
    made = world(make(world="momentum"), [[2.0, 2.0]])
    place, speed = made._place.clone(), made._speed.clone()
    seen, _, _ = made.step(torch.tensor([[[1.0, -0.05]]]))
    speed = speed + torch.tensor([0.1, -0.05])
    assert torch.allclose(seen, torch.cat([place + speed, speed], -1))
    assert make(world="momentum").load().info.input_shape == (4, 1, 1)


def test_walls_let_out_through_gaps_alone(make: Any) -> None:
    """From inside a circle nobody gets out more than 1 from its gap, however long it walks; through the gap
    it does, and walls do not hold back who comes from outside.
    """
    made = world(make(world="walls"), [[2.0, 2.0]] * 50, rollouts=64)
    angles = torch.arange(64) * (2 * torch.pi / 64)
    towards = torch.stack([angles.cos(), angles.sin()], -1).expand(50, 64, 2)
    is_out = torch.zeros(50, 64, dtype=torch.bool)
    for _ in range(40):
        before = made._place
        after = made.step(0.15 * towards)[0]
        for radius, gap in made._gaps:
            crossed = (before.norm(dim=-1) <= radius) & (after.norm(dim=-1) > radius)
            assert bool(((after - gap).norm(dim=-1)[crossed] <= 1).all())
        is_out |= after.norm(dim=-1) > 2
    assert 0.02 < float(is_out.float().mean()) < 0.5
    made._place = torch.full_like(made._place, 1.6)
    for _ in range(20):
        after = made.step(-made._place)[0]
    assert float(after.norm(dim=-1).max()) < 0.01


def test_goals_of_ones_own(make: Any) -> None:
    """`goals` gives environments with the goals that are asked for, and so many rollouts."""
    begun = make(horizon=7).goals(torch.tensor([[1.0, 0.0]]), rollouts=3).begin(still, {})
    assert begun.support.images.shape == (1, 21, 2, 1, 1)
    assert begun.support.returns.shape == (1,)
    assert Experience.of(begun.support.labels[0]).actions.shape == (21, 2)


def test_options_are_part_of_what_the_task_is(make: Any) -> None:
    """Other options are other contents, so that no result is taken for another's."""
    others = [{"world": "walls"}, {"spread": 0.1}, {"reward": "sparse"}, {"horizon": 50}, {"discount": 0.9}]
    variants: list[dict[str, Any]] = [{}, *others]
    assert len({make(**options).load().content for options in variants}) == len(variants)


@pytest.mark.parametrize(
    "options", [{"world": "maze"}, {"spread": -1.0}, {"reward": "none"}, {"horizon": 0}, {"discount": 1.5}]
)
def test_wrong_options_are_refused(make: Any, options: dict[str, Any]) -> None:
    """Each with the option's name."""
    with pytest.raises(RecipeError, match=next(iter(options))):
        make(**options)


def test_rollouts_run_on_threads_of_any_number(make: Any) -> None:
    """A task's rollouts do not depend on how many are made with it."""
    few, many = (
        partial(make().load().episodes("train", EpisodeShape(1, count, 1), CPU).draw, 0) for count in (2, 5)
    )
    parts = [draw(torch.arange(3)).begin(still, {}).support for draw in (few, many)]
    assert torch.equal(parts[0].images, parts[1].images[:, : parts[0].images.shape[1]])
