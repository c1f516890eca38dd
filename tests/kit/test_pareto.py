"""Non-dominated ranks by fast algorithms, held against their definition."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from learnforge_kit import best_first, non_dominated_rank

Array = npt.NDArray[np.float64]


def by_definition(losses: Array) -> list[int]:
    """Compare every result with every other, front by front."""
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(2)
    dominates = no_worse & ~no_worse.T
    ranks = np.full(len(losses), -1)
    for rank in range(len(losses)):
        left = ranks < 0
        ranks[left & ~(dominates & left[:, None]).any(0)] = rank
    return [int(rank) for rank in ranks]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
def test_ranks_are_those_of_the_definition(objectives: int) -> None:
    """Of results with many ties, of equal ones, and of none at all."""
    rng = np.random.default_rng(objectives)
    for count in (0, 1, *rng.integers(2, 60, 60)):
        losses = rng.integers(0, 7, (count, objectives)).astype(np.float64)
        assert non_dominated_rank(losses).tolist() == by_definition(losses)


@pytest.mark.parametrize("objectives", [2, 3])
def test_ranks_of_what_is_not_finite(objectives: int) -> None:
    """Infinite losses are the worst or the best; what is not a number is neither dominated nor dominates."""
    rng = np.random.default_rng(objectives)
    for _ in range(60):
        losses = rng.integers(0, 4, (30, objectives)).astype(np.float64)
        losses[rng.random(losses.shape) < 0.1] = rng.choice([np.inf, -np.inf])
        losses[rng.random(losses.shape) < 0.1] = np.nan
        assert non_dominated_rank(losses).tolist() == by_definition(losses)


def test_ranks_do_not_depend_on_the_order_of_results() -> None:
    """Shuffled results have the same ranks, shuffled."""
    rng = np.random.default_rng(0)
    losses = rng.random((200, 2)).round(1)
    order = rng.permutation(200)
    assert (non_dominated_rank(losses[order]) == non_dominated_rank(losses)[order]).all()


def test_best_come_first() -> None:
    """By rank, then the outermost and the least crowded, then the older ones."""
    # front 0: (0, 4), (1, 3), (3, 1), (4, 0), of which (1, 3) and (3, 1) are as crowded; then (4, 4) twice
    values = [(4.0, 4.0), (1.0, 3.0), (0.0, 4.0), (4.0, 4.0), (3.0, 1.0), (4.0, 0.0)]
    assert best_first(values, ["minimize", "minimize"]) == [2, 5, 1, 4, 0, 3]
