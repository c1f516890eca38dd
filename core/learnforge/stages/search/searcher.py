"""The hole that a searcher fills."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import optuna

if TYPE_CHECKING:
    from learnforge.stages.search.view import SpaceView


class Searcher(ABC):
    """A method of the kind `searcher`: a frozen attrs class that makes an Optuna sampler.

    The driver owns the study and everything around it: limits, duplicates, parallel trials, resume. It calls
    `sampler` once, at the start and after every restart, so whatever the sampler needs to know must be in the
    study. Deriving the sampler from `HistorySampler` makes sure of that.

    What a searcher claims beyond that stands in its class; `SearcherSuite` holds it to it.
    """

    resumes_exactly: ClassVar[bool] = True
    """A search that was cut off goes on with the very choices that it would have made."""

    supports_many_objectives: ClassVar[bool] = True
    """Studies with several directions are searched."""

    repeat_rate: ClassVar[float] = 0.5
    """Largest share of designs proposed again, among 60 trials in a space of 1,024."""

    is_baseline: ClassVar[bool] = False
    """It is there to be compared with, and need not beat random search."""

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
