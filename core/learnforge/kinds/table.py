"""The kind `table`: a tabular benchmark, which knows what training each design of a space gave."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attrs import frozen

from learnforge.kinds.space import Design, Space


@frozen
class Trained:
    """What a table says of one training.

    Args:
        validation: Validation accuracy that a searcher is told; more is better.
        seconds: What the training cost.
    """

    validation: float
    seconds: float


@frozen
class Published:
    """A figure from the literature.

    Args:
        method: What was measured.
        mean: Mean test accuracy of what was chosen.
        deviation: Standard deviation over runs.
        source: Where it stands.
    """

    method: str
    mean: float
    deviation: float
    source: str


class Table(ABC):
    """A method of the kind `table`: a frozen attrs class that knows what training each design of a
    space gave.

    `learnforge bench searchers` lets searchers run over it. A searcher sees validation accuracies and what
    `predict_costs` and `scores` tell; `test` is asked once, for what a search has chosen.
    """

    budget: ClassVar[float] = 12_000.0
    """Seconds of training that a search may spend, by default."""

    @abstractmethod
    def space(self) -> Space:
        """Return the space whose designs are in the table."""

    @abstractmethod
    def train(self, design: Design, choices: Mapping[str, Any]) -> Trained:
        """Look up a training.

        Args:
            design: The design, in normal form.
            choices: Those that made it, where a table has rows for choices that make the same design.
        """

    @abstractmethod
    def test(self, design: Design, choices: Mapping[str, Any]) -> float:
        """Look up the test accuracy, in the unit of the published figures."""

    @abstractmethod
    def best(self) -> float:
        """Return the best validation accuracy in the table, from which regret is counted."""

    def predict_costs(self, design: Design) -> Mapping[str, float]:
        """Return what is known before training: costs, and zero-cost scores."""
        return {}

    def scores(self) -> Sequence[str]:
        """Name those of `predict_costs` that are zero-cost scores; more promises more accuracy."""
        return ()

    def published(self) -> Sequence[Published]:
        """List figures to compare with."""
        return ()
