"""Order among results with several objectives: non-dominated rank, then crowding distance.

Reference:
    Deb, Pratap, Agarwal & Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II, 2002,
    sections III.A and III.B. doi:10.1109/4235.996017
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def to_losses(values: Sequence[Sequence[float]], directions: Sequence[str]) -> Array:
    """Return values as an array [result, objective] in which lower is better."""
    signs = np.array([-1.0 if direction == "maximize" else 1.0 for direction in directions])
    losses: Array = np.asarray(values, dtype=np.float64).reshape(-1, len(directions)) * signs
    return losses


def non_dominated_rank(losses: Array) -> npt.NDArray[np.int64]:
    """Rank results: 0 for those that no other dominates, 1 for those that only rank 0 dominates, and so on.

    One result dominates another if it is nowhere worse and somewhere better; equal results share their rank.

    Args:
        losses: [result, objective], lower is better.
    """
    if losses.shape[1] == 1:
        return np.unique(losses[:, 0], return_inverse=True)[1].astype(np.int64)
    no_worse = (losses[:, None, :] <= losses[None, :, :]).all(2)
    dominates = no_worse & ~no_worse.T
    ranks = np.full(len(losses), -1, dtype=np.int64)
    rank = 0
    while (ranks < 0).any():
        open_ones = ranks < 0
        ranks[open_ones & ~(dominates & open_ones[:, None]).any(0)] = rank
        rank += 1
    return ranks


def crowding_distance(losses: Array) -> Array:
    """Return how far the neighbours of each result are, summed over normalised objectives; the outermost
    get infinity.
    """
    distance = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if spread > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


def best_first(values: Sequence[Sequence[float]], directions: Sequence[str]) -> list[int]:
    """Return positions from best to worst: by rank, then the least crowded first, then older first."""
    losses = to_losses(values, directions)
    ranks = non_dominated_rank(losses)
    crowding = np.zeros(len(losses))
    for rank in np.unique(ranks) if losses.shape[1] > 1 else ():
        crowding[ranks == rank] = crowding_distance(losses[ranks == rank])
    return sorted(range(len(losses)), key=lambda i: (ranks[i], -crowding[i], i))
