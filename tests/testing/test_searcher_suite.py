"""The suite of searchers: good ones pass, one that breaks a duty fails the check that is meant for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
from attrs import frozen
from optuna.trial import FrozenTrial, TrialState

from learnforge import HistorySampler, Plugins, Searcher, SpaceView, best_first, mutate
from learnforge.testing import SearcherSuite


@frozen
class Climb(Searcher):
    """Change one choice of the best design so far.

    Reference: https://arxiv.org/abs/2005.02960
    """

    def sampler(
        self, seed: int, directions: Sequence[str], view: SpaceView | None = None
    ) -> optuna.samplers.BaseSampler:
        return ClimbSampler(seed)


class ClimbSampler(HistorySampler):
    """Proposes mutations of the best."""

    def __init__(self, seed: int, restart: float = 0.2):
        super().__init__(seed)
        self.restart = restart

    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        if not history or rng.random() < self.restart:
            return {}
        best = history[best_first([trial.values for trial in history], directions)[0]]
        return mutate(best.params, best.distributions, rng)


@frozen
class Outside(Climb):
    """Puts a number above its range, and another between its steps.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return OutsideSampler(seed)


class OutsideSampler(ClimbSampler):
    """Leaves the space now and then."""

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        value = super().sample_independent(study, trial, param_name, param_distribution)
        return value + 1.0 if param_name == "rate" and trial.number % 7 == 6 else value


@frozen
class Unseeded(Climb):
    """Always uses the same seed.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return ClimbSampler(0)


@frozen
class Forgetful(Climb):
    """Keeps a count of its own, which a restart loses.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return ForgetfulSampler(seed)


class ForgetfulSampler(ClimbSampler):
    """Starts anywhere every fourth time that it is asked."""

    asked = 0

    def propose(self, history: Any, rng: Any, directions: Any) -> Mapping[str, Any]:
        self.asked += 1
        return {} if self.asked % 4 == 0 else super().propose(history, rng, directions)


@frozen
class Herding(Climb):
    """Gives every trial that is asked before the next is told the same choices.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return HerdingSampler(seed)


class HerdingSampler(ClimbSampler):
    """Seeds by what is finished alone."""

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        done = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL)))
        twin = FrozenTrial(
            number=done, state=TrialState.RUNNING, value=None, datetime_start=None, datetime_complete=None,
            params={}, distributions={}, user_attrs={}, system_attrs={}, intermediate_values={}, trial_id=0,
        )  # fmt: skip
        return super().sample_independent(study, twin, param_name, param_distribution)


@frozen
class Fragile(Climb):
    """Wants a finished trial once there are trials.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return FragileSampler(seed)


class FragileSampler(ClimbSampler):
    """Reads the values of every trial that has ended."""

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.FAIL))
        if study.study_name == "suite":  # Optuna's own tests have failed trials as well
            _ = [trial.values[0] for trial in ended]
        return super().sample_independent(study, trial, param_name, param_distribution)


@frozen
class UpwardOnly(Climb):
    """Takes the lowest value for the best when it minimises a negative one.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return UpwardSampler(seed)


class UpwardSampler(ClimbSampler):
    """Maximises whatever it is told."""

    def propose(self, history: Any, rng: Any, directions: Sequence[str]) -> Mapping[str, Any]:
        return super().propose(history, rng, ["maximize"] * len(directions))


@frozen
class Stubborn(Climb):
    """Proposes the best design again and again.

    Reference: https://example.org
    """

    repeat_rate: ClassVar[float] = 0.3

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return StubbornSampler(seed)


class StubbornSampler(ClimbSampler):
    """Repeats the best every other time."""

    def propose(self, history: Any, rng: Any, directions: Any) -> Mapping[str, Any]:
        if len(history) % 2:
            return dict(history[best_first([trial.values for trial in history], directions)[0]].params)
        return super().propose(history, rng, directions)


@frozen
class SingleMinded(Climb):
    """Claims to take several objectives and does not.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        if len(directions) > 1:
            raise ValueError("one objective at a time")
        return ClimbSampler(seed)


@frozen
class Idle(Climb):
    """Draws at random and does not say that it is a baseline.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return ClimbSampler(seed, restart=1.0)


@frozen
class Numpyish(Climb):
    """Gives numbers of numpy's types, which Optuna's tests refuse.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return NumpySampler(seed)


class NumpySampler(ClimbSampler):
    """Wraps floats."""

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        value = super().sample_independent(study, trial, param_name, param_distribution)
        return np.float64(value) if isinstance(value, float) and study.study_name != "suite" else value


@frozen
class Endless(Climb):
    """Fails where a space has few designs.

    Reference: https://example.org
    """

    def sampler(self, seed: int, directions: Sequence[str], view: SpaceView | None = None) -> Any:
        return EndlessSampler(seed)


class EndlessSampler(ClimbSampler):
    """Refuses to propose a design twice."""

    def propose(self, history: Sequence[FrozenTrial], rng: Any, directions: Any) -> Mapping[str, Any]:
        if history and set(history[0].params) == {"a", "b"} and len(history) >= 40:
            raise RuntimeError("nothing is left")
        return super().propose(history, rng, directions)


BROKEN = {
    Outside: [
        "choices_are_inside_the_space",
        "failed_trials_are_survived",
        "several_objectives_are_searched",
    ],
    Unseeded: ["same_seed_gives_the_same_trials"],
    Forgetful: ["resumed_equals_uninterrupted"],
    Herding: ["batches_are_asked_before_they_are_told"],
    Fragile: ["failed_trials_are_survived"],
    UpwardOnly: ["maximising_equals_minimising_the_negative"],
    Endless: ["small_space_is_exhausted"],
    Stubborn: ["repeats_are_rarer_than_declared"],
    SingleMinded: ["several_objectives_are_searched"],
    Idle: ["it_beats_random_search"],
    Numpyish: ["optuna_tests_pass"],
}


def failed(method: type[Searcher]) -> list[str]:
    return [outcome.name for outcome in SearcherSuite.of(method).run() if outcome.state == "failed"]


@pytest.mark.parametrize("method", BROKEN, ids=lambda method: method.__name__)
def test_a_broken_searcher_fails_its_check(method: type[Searcher]) -> None:
    """Each fault turns its check red; a choice outside the space shows wherever choices are looked at."""
    assert failed(method) == BROKEN[method]


def test_every_check_can_fail() -> None:
    """No check of a searcher is without a searcher that breaks it."""
    own = [name for name in vars(SearcherSuite) if name.startswith("test_")]
    assert {name.removeprefix("test_") for name in own} == {
        name for names in BROKEN.values() for name in names
    }


def test_good_searchers_pass() -> None:
    """A hill climber and learnforge's own searchers pass; the baseline need not beat itself."""
    assert failed(Climb) == []
    plugins = Plugins()
    assert failed(plugins.load("searcher", "evolution")) == []
    outcomes = {o.name: o.state for o in SearcherSuite.of(plugins.load("searcher", "random")).run()}
    assert outcomes.pop("it_beats_random_search") == "skipped"
    assert set(outcomes.values()) == {"passed"}


def test_claims_lift_duties() -> None:
    """A searcher that claims neither exact resume nor several objectives is not held to them."""

    class Modest(Forgetful):
        resumes_exactly: ClassVar[bool] = False
        supports_many_objectives: ClassVar[bool] = False

    checks = {check.name: check.skip for check in SearcherSuite.of(Modest).checks()}
    assert checks["resumed_equals_uninterrupted"] == "the searcher does not claim to resume exactly"
    assert checks["several_objectives_are_searched"] == "the searcher takes one objective"
