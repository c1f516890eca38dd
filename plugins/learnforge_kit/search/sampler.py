"""Samplers whose only state is the study: a trial's choices depend on told trials, seed and number alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from learnforge.randomness import derive
from learnforge_kit.search.seen import SeenChoices


class IndependentSampler(optuna.samplers.BaseSampler):
    """Samples choices one by one, each when it is asked for; a subclass writes `sample_independent`."""

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Sample nothing jointly: choices come one by one, some only after others."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample nothing jointly."""
        return {}


class HistorySampler(IndependentSampler):
    """Proposes a whole trial from the history; choices that it leaves open are drawn uniformly.

    A subclass writes `propose`. Kill the process at any moment and start again: the same trials follow,
    because each trial has random generators of its own, seeded by (seed, trial number) and (seed, trial
    number, choice).

    Args:
        seed: Seed of the search.

    Attributes:
        pending: Trials that were asked before the one to propose and are not told, oldest first, their
            `params` perhaps not complete. In a batch these are its earlier members: who learns from them
            proposes something else.
        rejected: Trials that were told and have no values: refused, or failed. Who keeps off them does not
            propose them again.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.pending: Sequence[FrozenTrial] = ()
        self.rejected: Sequence[FrozenTrial] = ()
        self._proposed: tuple[int, Mapping[str, Any]] | None = None

    @abstractmethod
    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        """Return the choices of the next trial, or some of them.

        Args:
            history: Complete trials, oldest first; each has `params`, `distributions` and `values`. Not to
                be changed.
            rng: This trial's generator.
            directions: `maximize` or `minimize` for each value.

        Returns:
            {name of a choice: value}. Names that are not asked for are ignored, and a name that is asked for
            but missing here (a choice that only appears with this proposal), or out of range, is drawn
            uniformly.
        """

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the proposal's value for one choice, or a uniform draw."""
        if self._proposed is None or self._proposed[0] != trial.number:
            history, self.pending, self.rejected = split_history(study, trial)
            directions = [direction.name.lower() for direction in study.directions]
            rng = generator(self.seed, trial.number)
            self._proposed = (trial.number, self.propose(history, rng, directions))
        proposal = self._proposed[1]
        if param_name in proposal and contains(param_distribution, proposal[param_name]):
            return proposal[param_name]
        return draw(param_distribution, generator(self.seed, trial.number, param_name))


class FreshSampler(optuna.samplers.BaseSampler):
    """Lets one of Optuna's samplers whose state is in the study resume exactly: a fresh one for each trial.

    Only what the samplers have seen of the search space goes from one to the next: it is a function of the
    study too.

    Args:
        seed: Seed of the search.
        make: Returns a sampler, given a seed in [0, 2**32).
    """

    def __init__(self, seed: int, make: Callable[[int], optuna.samplers.BaseSampler]):
        self.seed = seed
        self._make = make
        self._made: tuple[int, optuna.samplers.BaseSampler] | None = None
        self._seen: SeenChoices | None = None

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Ask the trial's own sampler."""
        if self._seen is None or self._seen.study is not study:
            self._seen = SeenChoices(study)
        own = self._own(trial)
        self._seen.show(own)
        return own.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the trial's own sampler."""
        return self._own(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Ask a sampler of this choice's own, so that a trial cut off amid its choices goes on the
        same way.
        """
        sampler = self._make(derive(self.seed, trial.number, param_name) % 2**32)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Ask the trial's own sampler."""
        self._own(trial).before_trial(study, trial)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Tell the trial's own sampler, which may store in the study what later ones read."""
        self._own(trial).after_trial(study, trial, state, values)

    def _own(self, trial: FrozenTrial) -> optuna.samplers.BaseSampler:
        if self._made is None or self._made[0] != trial.number:
            self._made = (trial.number, self._make(derive(self.seed, trial.number) % 2**32))
        return self._made[1]


def split_history(
    study: optuna.Study, trial: FrozenTrial
) -> tuple[list[FrozenTrial], list[FrozenTrial], list[FrozenTrial]]:
    """Return the complete trials of a study, those asked before `trial` and not told, and those told without
    values, oldest first.
    """
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    pending = [t for t in trials if t.state == TrialState.RUNNING and t.number < trial.number]
    return complete, pending, [t for t in trials if t.state in (TrialState.FAIL, TrialState.PRUNED)]


def generator(seed: int, *parts: str | int) -> np.random.Generator:
    """Return a numpy generator for one use."""
    return np.random.default_rng(derive(seed, *parts))


def draw(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """Draw uniformly from a distribution, uniformly in the logarithm where it says so."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(rng.integers(len(distribution.choices)))]
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    low, high, step = distribution.low, distribution.high, distribution.step
    if distribution.log:
        # half a unit on both sides gives the first and last integer their share
        margin = 0.5 if isinstance(distribution, IntDistribution) else 0.0
        value = float(np.exp(rng.uniform(np.log(low - margin), np.log(high + margin))))
        if isinstance(distribution, IntDistribution):
            return int(np.clip(round(value), low, high))
        return float(np.clip(value, low, high))
    if step is None:
        return float(rng.uniform(low, high))
    steps = int(rng.integers(round((high - low) / step) + 1))
    return min(low + steps * step, high)  # 0.1 steps from -10.2 round to more than 10.2


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Tell whether a distribution can give a value."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(value, (bool, str)) or value is None:
        return False
    return bool(distribution._contains(distribution.to_internal_repr(value)))
