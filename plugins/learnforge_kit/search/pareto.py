"""Order among results with several objectives: non-dominated rank, then crowding distance.

Reference:
    Deb, Pratap, Agarwal & Meyarivan, A fast and elitist multiobjective genetic algorithm: NSGA-II, 2002,
    sections III.A and III.B. doi:10.1109/4235.996017
"""

from __future__ import annotations

import bisect
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
    For two objectives it takes n log n steps.

    Args:
        losses: [result, objective], lower is better.
    """
    if losses.shape[1] == 1:
        return np.unique(losses[:, 0], return_inverse=True)[1].astype(np.int64)
    ranks = np.zeros(len(losses), dtype=np.int64)
    known = np.flatnonzero(~np.isnan(losses).any(1))  # what is not a number is neither better nor worse
    order = known[np.lexsort(losses[known].T[::-1])]
    ordered = losses[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    distinct = ordered[is_new]
    found = _ranks_of_pairs(distinct) if losses.shape[1] == 2 else _ranks_by_peeling(distinct)
    ranks[order] = found[np.cumsum(is_new) - 1]
    return ranks


def _ranks_of_pairs(losses: Array) -> npt.NDArray[np.int64]:
    """Rank distinct pairs in lexicographic order: one is dominated by a front if the front's least second
    loss so far is no larger than its own, and those least losses grow from front to front.
    """
    least: list[float] = []
    ranks = np.zeros(len(losses), dtype=np.int64)
    for place, loss in enumerate(losses[:, 1].tolist()):
        rank = ranks[place] = bisect.bisect_right(least, loss)
        least[rank : rank + 1] = [loss]
    return ranks


def _ranks_by_peeling(losses: Array) -> npt.NDArray[np.int64]:
    """Rank distinct results in lexicographic order, front by front: the first of those left is in the front,
    and what it dominates is not.
    """
    ranks = np.zeros(len(losses), dtype=np.int64)
    left, rank = np.arange(len(losses)), 0
    while len(left):
        rest, front = left, []
        while len(rest):
            front.append(rest[0])
            rest = rest[1:][(losses[rest[1:]] < losses[rest[0]]).any(1)]
        ranks[front] = rank
        left, rank = np.setdiff1d(left, front, assume_unique=True), rank + 1
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
    if losses.shape[1] > 1 and len(losses):
        order = np.argsort(ranks, kind="stable")
        for front in np.split(order, np.flatnonzero(np.diff(ranks[order])) + 1):
            crowding[front] = crowding_distance(losses[front])
    best: list[int] = np.lexsort((-crowding, ranks)).tolist()  # it is stable: of equal ones the older first
    return best
