"""The kind `searcher`: proposes designs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from attrs import frozen

from learnforge.kinds.space import Design, Space

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from learnforge.context import Context
    from learnforge.kinds.task import Task


@frozen
class Candidate:
    """A design with the choices that made it.

    Args:
        choices: {name: value}, in the order asked for.
        distributions: {name: what it was picked from}.
        design: The design, in normal form.
        key: Equal for equal designs.
    """

    choices: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    design: Design
    key: str


class View(Protocol):
    """What a searcher sees of a space, without training anything."""

    @property
    def scores(self) -> Mapping[str, Callable[[Design], float]]:
        """{name: zero-cost score of a design}, those that the stage computes; more is better."""

    def allows(self, candidate: Candidate) -> bool:
        """Tell whether a candidate may be evaluated: whether it keeps the limits."""

    def random(self, rng: np.random.Generator) -> Candidate:
        """Draw every choice uniformly."""

    def complete(self, choices: Mapping[str, Any], rng: np.random.Generator) -> Candidate:
        """Return the candidate with these choices; missing or impossible ones are drawn uniformly."""

    def neighbours(self, candidate: Candidate, rng: np.random.Generator) -> list[Candidate]:
        """Return a candidate for each single choice that can be made otherwise."""

    def of_trial(self, trial: FrozenTrial, rng: np.random.Generator) -> Candidate:
        """Return the candidate that a trial evaluated."""


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
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        """Make the sampler.

        Args:
            seed: The only source of randomness.
            directions: `maximize` or `minimize` for each objective.
            view: The space, where the stage has one: random designs, mutations and normal form of candidates.
        """


class DirectSearcher(Searcher):
    """A searcher that is no sampler: it finds designs itself, such as by gradient in one network of all.

    What it finds is judged as any design is: limits, plugins' vetoes, the stage's evaluator.
    """

    example: ClassVar[Space | None] = None
    """A small space that it can search, for its conformance checks; networks of three widths by default."""

    @abstractmethod
    def find(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Sequence[Mapping[str, Any]]:
        """Return the choices of the designs to evaluate, best first; the stage takes as many as its trials.

        Args:
            space: Where to search.
            view: `view.random(rng)` draws designs that keep the limits as far as these are known without
                measuring, and that plugins let pass.
            task: The task, on the device. Only training and validation split may be read.
            train: The stage's table `train`.
            context: Seed, device, checkpoints, with which it goes on after a kill.

        Raises:
            StageError: It cannot search this space.
        """

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        """Refuse what has no networks, such as options."""
        raise ValueError(f"{type(self).__name__} finds networks of a space, and samples nothing else")
