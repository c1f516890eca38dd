"""The hole that a searcher fills."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

import optuna

if TYPE_CHECKING:
    from learnforge.stages.search.view import SpaceView


class Searcher(ABC):
    """A method of the kind `searcher`: a frozen attrs class that makes an Optuna sampler.

    The driver owns the study and everything around it: limits, duplicates, parallel trials, resume. It calls
    `sampler` once, at the start and after every restart, so whatever the sampler needs to know must be in the
    study. Deriving the sampler from `HistorySampler` makes sure of that.
    """

    @abstractmethod
    def sampler(
        self, seed: int, directions: Sequence[str], view: SpaceView | None = None
    ) -> optuna.samplers.BaseSampler:
        """Make the sampler.

        Args:
            seed: The only source of randomness.
            directions: `maximize` or `minimize` for each objective.
            view: The space, where the stage has one: random designs, mutations and normal form of candidates.
        """
