"""Random search: every choice uniformly at random, the baseline that a searcher must beat.

Reference:
    Li & Talwalkar, Random search and reproducibility for neural architecture search, 2019. arXiv:1902.07638
Measured:
    NAS-Bench-201, 12,000 simulated seconds, 500 seeds: test accuracy 93.79 ± 0.31 %, validation regret 1.084
    ± 0.519 points (mean ± standard deviation). 93.74 % where repeated designs are paid for, as published.
    learnforge bench searchers random --seeds 500 --final
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import optuna
from attrs import frozen

from learnforge import Searcher, View, hookimpl
from learnforge_kit import HistorySampler


@frozen
class Random(Searcher):
    """Random search. It has no options."""

    is_baseline: ClassVar[bool] = True
    repeat_rate: ClassVar[float] = 0.1

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return _RandomSampler(seed)


class _RandomSampler(HistorySampler):
    def propose(
        self, history: Sequence[optuna.trial.FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        return {}


@hookimpl
def learnforge_searchers() -> dict[str, type[Searcher]]:
    return {"random": Random}
