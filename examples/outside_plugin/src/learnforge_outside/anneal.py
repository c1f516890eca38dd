"""Simulated annealing: mutate the current design, and now and then accept a worse one.

    P(accept) = min(1, exp(-(f(new) - f(current)) / T_k)),   T_k = T_0 * c^k

f is the objective to make small, as a share of its spread over all trials so far, so that T needs no unit.

Reference:
    Kirkpatrick, Gelatt & Vecchi, Optimization by simulated annealing, Science 220, 1983.
    doi:10.1126/science.220.4598.671
Differs:
    The chain is replayed from the finished trials for each new one, so that the study is the only state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from attrs import field, frozen
from attrs.validators import gt, le
from optuna.trial import FrozenTrial

from learnforge import Searcher, View, hookimpl
from learnforge_kit import HistorySampler, mutate


@frozen
class Anneal(Searcher):
    """Simulated annealing on one objective.

    Args:
        temperature: T at the start (T_0), as a share of the spread of the objective, above 0.
        cooling: Factor on T after each trial (c), in (0, 1].
    """

    temperature: float = field(default=0.1, validator=gt(0.0))
    cooling: float = field(default=0.95, validator=[gt(0.0), le(1.0)])

    supports_many_objectives: ClassVar[bool] = False

    def sampler(self, seed: int, directions: Sequence[str], view: View | None = None) -> HistorySampler:
        """Make the sampler; the study is its only state."""
        return _Sampler(seed, self)


class _Sampler(HistorySampler):
    def __init__(self, seed: int, settings: Anneal):
        super().__init__(seed)
        self._settings = settings

    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        if not history:
            return {}
        current = history[self._current(history, -1.0 if directions[0] == "maximize" else 1.0)]
        return mutate(current.params, current.distributions, rng)

    def _current(self, history: Sequence[FrozenTrial], sign: float) -> int:
        """Walk the chain of accepted trials, and return where it stands."""
        values = np.array([sign * trial.values[0] for trial in history])
        finite = values[np.isfinite(values)]
        spread = float(np.ptp(finite)) if len(finite) else 0.0
        at = 0
        for k in range(1, len(values)):
            worse = (values[k] - values[at]) / (spread or 1.0)
            heat = self._settings.temperature * self._settings.cooling**k
            draw = np.random.default_rng([self.seed, history[k].number]).random()
            if worse <= 0 or draw < math.exp(-worse / heat):
                at = k
        return at


@hookimpl
def learnforge_searchers() -> dict[str, type[Searcher]]:
    """Offer the searcher."""
    return {"anneal": Anneal}
