"""A space as a searcher and the driver see it: candidates without trials."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from learnforge.errors import StageError
from learnforge.kinds.searcher import Candidate
from learnforge.kinds.space import Choice, Design, Space, design_key
from learnforge_kit.search.sampler import contains, draw

Meter = Callable[[Design], float]
"""Says something of a design before it is trained, such as a zero-cost score; more is better."""

FEW = 8
"""Choices with more values than this have this many neighbours, drawn at random."""

MOST_DRAWS = 2000
"""Random designs that are drawn in the hope of one that is allowed."""


class SpaceView:
    """Offers random designs, mutations and completions of a space, without training anything.

    Args:
        space: The space.
        scores: {name: zero-cost score of a design}; what the stage computes, or a table holds.
        allows: Tells whether a design may be evaluated, which takes some milliseconds; everything may
            by default.
    """

    def __init__(
        self,
        space: Space,
        scores: Mapping[str, Meter] | None = None,
        allows: Callable[[Design], bool] | None = None,
    ):
        self.space = space
        self.scores: Mapping[str, Meter] = scores or {}
        self._allows = allows
        self._evaluated: dict[tuple[tuple[str, Any], ...], Candidate] = {}

    def allows(self, candidate: Candidate) -> bool:
        """Tell whether a candidate may be evaluated: whether it keeps the limits."""
        return self._allows is None or self._allows(candidate.design)

    def complete(self, choices: Mapping[str, Any], rng: np.random.Generator) -> Candidate:
        """Return the candidate with these choices; missing or impossible ones are drawn uniformly."""
        pick = _DrawingPick(choices, rng)
        design = self.space.design(pick)
        return Candidate(pick.choices, pick.distributions, design, design_key(design))

    def random(self, rng: np.random.Generator) -> Candidate:
        """Draw every choice uniformly."""
        return self.complete({}, rng)

    def mutate(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """Change one choice, and draw those that only then appear."""
        return self.complete(mutate(candidate.choices, candidate.distributions, rng), rng)

    def neighbours(self, candidate: Candidate, rng: np.random.Generator) -> list[Candidate]:
        """Return a candidate for each single choice that can be made otherwise; see `neighbours`."""
        return [
            self.complete(choices, rng)
            for choices in neighbours(candidate.choices, candidate.distributions, rng)
        ]

    def of_trial(self, trial: FrozenTrial, rng: np.random.Generator) -> Candidate:
        """Return the candidate that a trial evaluated; made once, however often it is asked for."""
        key = tuple(trial.params.items())
        if key not in self._evaluated:
            self._evaluated[key] = self.complete(trial.params, rng)
        return self._evaluated[key]


class AllowedView(SpaceView):
    """A view that draws nothing but what may be evaluated, for methods that train designs themselves."""

    def random(self, rng: np.random.Generator) -> Candidate:
        """Draw every choice uniformly, until the design is allowed.

        Raises:
            StageError: None of many designs is.
        """
        for _ in range(MOST_DRAWS):
            candidate = super().random(rng)
            if self.allows(candidate):
                return candidate
        raise StageError(
            f"none of {MOST_DRAWS:,} random designs is allowed; raise `limits`, or mend what refuses"
        )


class HistoryView:
    """Offers the same where no space is known: what the trials so far were picked from.

    Args:
        trials: Finished trials, at least one.
    """

    scores: Mapping[str, Meter] = {}

    def __init__(self, trials: Sequence[FrozenTrial]):
        self._trials = trials

    def allows(self, candidate: Candidate) -> bool:
        """Tell that a candidate may be evaluated, as nothing is known of limits."""
        return True

    def random(self, rng: np.random.Generator) -> Candidate:
        """Draw anew every choice of a trial drawn at random."""
        trial = self._trials[int(rng.integers(len(self._trials)))]
        choices = {name: draw(distribution, rng) for name, distribution in trial.distributions.items()}
        return _from_choices(choices, trial.distributions)

    def neighbours(self, candidate: Candidate, rng: np.random.Generator) -> list[Candidate]:
        """Return a candidate for each single choice that can be made otherwise."""
        return [
            _from_choices(choices, candidate.distributions)
            for choices in neighbours(candidate.choices, candidate.distributions, rng)
        ]

    def complete(self, choices: Mapping[str, Any], rng: np.random.Generator) -> Candidate:
        """Return the candidate with these choices and those that a trial with the most of their names
        also had.
        """
        nearest = max(self._trials, key=lambda trial: len(trial.params.keys() & choices.keys()))
        drawn = {
            name: choices[name] if name in choices and contains(d, choices[name]) else draw(d, rng)
            for name, d in nearest.distributions.items()
        }
        return _from_choices(drawn, nearest.distributions)

    def of_trial(self, trial: FrozenTrial, rng: np.random.Generator) -> Candidate:
        """Return the candidate that a trial evaluated, its choices for a design."""
        return _from_choices(trial.params, trial.distributions)


def _from_choices(choices: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]) -> Candidate:
    design = dict(choices)
    return Candidate(choices, distributions, design, design_key(design))


def mutate(
    choices: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], rng: np.random.Generator
) -> dict[str, Any]:
    """Return the choices with one of them changed to another value, never to the same.

    Categories and whole numbers go to any other value with equal probability; a number moves by a normal step
    of a tenth of its range (in the logarithm where it is logarithmic). Choices of a single value are left
    alone; if there are only such, an equal copy is returned.
    """
    free = [name for name, distribution in distributions.items() if not distribution.single()]
    if not free:
        return dict(choices)
    name = free[int(rng.integers(len(free)))]
    return {**choices, name: _another(distributions[name], choices[name], rng)}


def neighbours(
    choices: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Return the choices with each of them in turn changed to each other value.

    Of a number, and of whole numbers with more than `FEW` values, as many are drawn as `mutate` would
    draw them.
    """
    return [
        {**choices, name: value}
        for name, distribution in distributions.items()
        if not distribution.single()
        for value in _others(distribution, choices[name], rng)
    ]


def _others(distribution: BaseDistribution, value: Any, rng: np.random.Generator) -> Iterator[Any]:
    if isinstance(distribution, CategoricalDistribution):
        yield from (
            other for other in distribution.choices if other != value or type(other) is not type(value)
        )
        return
    if isinstance(distribution, IntDistribution):
        values = range(distribution.low, distribution.high + 1, distribution.step)
        if len(values) <= FEW + 1:
            yield from (other for other in values if other != value)
            return
    for _ in range(FEW):
        yield _another(distribution, value, rng)


def _another(distribution: BaseDistribution, value: Any, rng: np.random.Generator) -> Any:
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return _moved(distribution, float(value), rng)
    if isinstance(distribution, CategoricalDistribution):
        others = list(_others(distribution, value, rng))
        return others[int(rng.integers(len(others)))]
    while True:
        other = draw(distribution, rng)
        if other != value:
            return other


def _moved(distribution: FloatDistribution, value: float, rng: np.random.Generator) -> float:
    low, high = distribution.low, distribution.high
    if distribution.log:
        low, high, value = float(np.log(low)), float(np.log(high)), float(np.log(value))
    moved = value
    while moved == value:
        moved = float(np.clip(value + rng.normal(0.0, 0.1 * (high - low)), low, high))
    return float(np.clip(np.exp(moved), distribution.low, distribution.high)) if distribution.log else moved


class TrialPick:
    """Makes choices through an Optuna trial: its sampler decides, its study remembers."""

    def __init__(self, trial: optuna.trial.Trial):
        self._trial = trial

    def choice(self, name: str, choices: Sequence[Choice]) -> Any:
        return self._trial.suggest_categorical(name, choices)

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        return self._trial.suggest_int(name, low, high, step=step, log=log)

    def number(self, name: str, low: float, high: float, log: bool = False) -> float:
        return self._trial.suggest_float(name, low, high, log=log)


class _DrawingPick:
    """Makes choices from a table, else uniformly, and notes them."""

    def __init__(self, given: Mapping[str, Any], rng: np.random.Generator):
        self._given, self._rng = given, rng
        self.choices: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}

    def choice(self, name: str, choices: Sequence[Choice]) -> Any:
        types = tuple(map(type, choices))  # True equals 1, but is another choice
        return self._pick(name, _categories(tuple(choices), types))

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        return int(self._pick(name, _integers(low, high, log, step)))

    def number(self, name: str, low: float, high: float, log: bool = False) -> float:
        return float(self._pick(name, _numbers(low, high, log)))

    def _pick(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self.choices:
            return self.choices[name]
        is_given = name in self._given and contains(distribution, self._given[name])
        self.choices[name] = self._given[name] if is_given else draw(distribution, self._rng)
        self.distributions[name] = distribution
        return self.choices[name]


# making a distribution takes longer than drawing from it, and searchers draw by the hundred


@functools.lru_cache(maxsize=4096)
def _categories(choices: tuple[Choice, ...], types: tuple[type, ...]) -> CategoricalDistribution:
    return CategoricalDistribution(choices)


@functools.lru_cache(maxsize=4096)
def _integers(low: int, high: int, log: bool, step: int) -> IntDistribution:
    return IntDistribution(low, high, log, step)


@functools.lru_cache(maxsize=4096)
def _numbers(low: float, high: float, log: bool) -> FloatDistribution:
    return FloatDistribution(low, high, log)
