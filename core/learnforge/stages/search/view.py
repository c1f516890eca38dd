"""A space as a searcher and the driver see it: candidates without trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from attrs import frozen
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from learnforge.space import Choice, Design, Space, design_key
from learnforge.stages.search.sampler import contains, draw


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


class SpaceView:
    """Offers random designs, mutations and completions of a space, without training anything.

    Args:
        space: The space.
    """

    def __init__(self, space: Space):
        self.space = space

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


def _another(distribution: BaseDistribution, value: Any, rng: np.random.Generator) -> Any:
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return _moved(distribution, float(value), rng)
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
        return self._pick(name, CategoricalDistribution(choices))

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        return int(self._pick(name, IntDistribution(low, high, log, step)))

    def number(self, name: str, low: float, high: float, log: bool = False) -> float:
        return float(self._pick(name, FloatDistribution(low, high, log)))

    def _pick(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self.choices:
            return self.choices[name]
        is_given = name in self._given and contains(distribution, self._given[name])
        self.choices[name] = self._given[name] if is_given else draw(distribution, self._rng)
        self.distributions[name] = distribution
        return self.choices[name]
