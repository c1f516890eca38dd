"""Rungs: trials are judged after a few epochs, and only the promising ones are trained on.

    halving     The members of a batch are compared with each other; the best 1/eta of them go on.
    asha        A trial goes on if it is in the best 1/eta of all that have come to its rung so far.
    hyperband   As asha, in brackets, each with another first rung, so that slow starters get a chance.
    median      A trial goes on if it is in the better half of all that have come to its rung so far.

Rungs of halving, asha and hyperband are at first, first * eta, first * eta^2, … epochs; those of median every
`first` epochs. What is kept of a trial at a rung is the whole state of its training, so a trial that goes
through all rungs ends with the very bits of one that was never stopped.

Reference:
    Jamieson & Talwalkar, Non-stochastic best arm identification and hyperparameter optimization, 2016.
    arXiv:1502.07943 (halving)
    Li et al., A system for massively parallel hyperparameter tuning, 2020. arXiv:1810.05934 (ASHA)
    Li, Jamieson, DeSalvo, Rostamizadeh & Talwalkar, Hyperband, 2018. arXiv:1603.06560
    Golovin et al., Google Vizier: a service for black-box optimization, 2017 (median stopping).
    doi:10.1145/3097983.3098043
Differs:
    A trial is decided on as it comes to a rung, and is stopped for good, so that it can be told to the
    searcher; ASHA's authors keep it waiting for a later promotion.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Literal

from attrs import field, frozen
from attrs.validators import ge, in_

from learnforge_kit.search.pareto import best_first

BEFORE_MEDIAN = 4
"""Trials that must have come to a rung before the median stops one."""


@frozen
class Rungs:
    """When trials of a search are stopped early.

    Args:
        method: `halving` (needs `batch`), `asha`, `hyperband` or `median`.
        first: Epochs to the first rung, from 1.
        reduction: Factor between rungs, of which one trial goes on (eta), from 2.
        by: Objective to compare trials by; with several objectives non-dominated rank and crowding
            by default.
    """

    method: Literal["halving", "asha", "hyperband", "median"] = field(
        default="asha", validator=in_(("halving", "asha", "hyperband", "median"))
    )
    first: int = field(default=1, validator=ge(1))
    reduction: int = field(default=3, validator=ge(2))
    by: str | None = None

    def levels(self, index: int, epochs: int) -> list[int]:
        """Return the epochs at which a trial is judged, all below `epochs`.

        Args:
            index: The trial's place among the distinct designs of the search.
            epochs: Epochs of a whole trial.
        """
        if self.method == "median":
            return list(range(self.first, epochs, self.first))
        levels = self._geometric(epochs)
        return levels[self.bracket(index, epochs) :]

    def bracket(self, index: int, epochs: int) -> int:
        """Return which bracket a trial is in: how many of the first rungs it skips."""
        if self.method != "hyperband":
            return 0
        shares = bracket_sizes(len(self._geometric(epochs)), self.reduction)
        return _interleaved(tuple(shares))[index % sum(shares)]

    def _geometric(self, epochs: int) -> list[int]:
        levels = []
        level = self.first
        while level < epochs:
            levels.append(level)
            level *= self.reduction
        return levels

    def goes_on(
        self,
        position: int,
        values: Sequence[Sequence[float]],
        directions: Sequence[str],
        names: Sequence[str],
    ) -> bool:
        """Tell whether a trial is trained on after a rung.

        Args:
            position: Which of `values` are its own.
            values: Objectives at the rung of all that are compared, its own among them, older trials first:
                of its batch, of its bracket, or of all that came there.
            directions: `maximize` or `minimize` for each objective.
            names: Names of the objectives.
        """
        if self.by is not None:
            column = list(names).index(self.by)
            values, directions = [[row[column]] for row in values], [directions[column]]
        finite = [i for i, row in enumerate(values) if all(map(math.isfinite, row))]
        if position not in finite:
            return False
        if self.method == "median" and len(values) <= BEFORE_MEDIAN:
            return True
        order = [finite[i] for i in best_first([values[i] for i in finite], directions)]
        kept = math.ceil(len(values) / 2) if self.method == "median" else len(values) // self.reduction
        return order.index(position) < max(1, kept)


def bracket_sizes(rungs: int, reduction: int) -> list[int]:
    """Return how many trials Hyperband starts in each bracket, from the one with most rungs to the one
    with none.

    n_s = ceil((s_max + 1) / (s + 1) * eta^s), algorithm 1, line 3.
    """
    return [math.ceil((rungs + 1) / (s + 1) * reduction**s) for s in range(rungs, -1, -1)]


@functools.cache
def _interleaved(shares: tuple[int, ...]) -> tuple[int, ...]:
    """Return an order of brackets in which each has had its share, as nearly as can be, after any number
    of trials.
    """
    order: list[int] = []
    for count in range(1, sum(shares) + 1):
        due = [count * share / sum(shares) - order.count(bracket) for bracket, share in enumerate(shares)]
        order.append(due.index(max(due)))
    return tuple(order)
