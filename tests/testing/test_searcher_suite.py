"""The suite of searchers: a sound one passes, and each fault shows in the check that is meant for it.

Reference: https://example.org
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
from attrs import frozen
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from tests.testing.breadth import BREADTHS, failed_checks

from learnforge import Searcher, View
from learnforge_kit import HistorySampler, SpaceView
from learnforge_kit.search.sampler import contains, draw, generator
from learnforge_testing.landscapes import Landscape, Letters, Mixed, UniformSampler
from learnforge_testing.optuna_cases import cases
from learnforge_testing.suites.searcher import SearcherSuite

FINISHED = (TrialState.COMPLETE, TrialState.FAIL)


class QuickSuite(SearcherSuite):
    """Shorter searches: the methods here learn nothing."""

    trials = 32


@frozen
class Toy(Searcher):
    """A searcher around a sampler, a baseline so that it need not be good."""

    is_baseline = True
    made_by: ClassVar[type[HistorySampler]] = UniformSampler

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return self.made_by(seed)


class Remembers(UniformSampler):
    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        known = [past.params[param_name] for past in told if param_name in past.params]
        if known and not isinstance(param_distribution, CategoricalDistribution):
            return known[-1]
        return super().sample_independent(study, trial, param_name, param_distribution)


@frozen
class Outside(Toy):
    """Takes a value from an earlier trial, though the range is another by now."""

    made_by = Remembers


@frozen
class Seedless(Toy):
    """Ignores its seed."""

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return UniformSampler(0)


class DrawsOn(UniformSampler):
    def __init__(self, seed: int):
        super().__init__(seed)
        self._rng = generator(seed)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return draw(param_distribution, self._rng)


@frozen
class Forgetful(Toy):
    """Keeps a generator that a restart begins anew."""

    made_by = DrawsOn


class StoresASet(UniformSampler):
    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        study._storage.set_study_system_attr(study._study_id, "elite", {trial.number})


@frozen
class Unstorable(Toy):
    """Keeps its state in the study, but as something that no database takes."""

    made_by = StoresASet


class DrawsInTurn(UniformSampler):
    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        self._rngs = getattr(self, "_rngs", {})
        self._rngs[trial.number] = generator(self.seed, trial.number)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        rng = getattr(self, "_rngs", {}).get(trial.number, generator(self.seed, trial.number))
        return draw(param_distribution, rng)


@frozen
class Sequential(Toy):
    """Draws the choices of a trial one after the other, so what was drawn before a kill is missed."""

    made_by = DrawsInTurn


class WantsNoOther(UniformSampler):
    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if any(other.number != trial.number for other in running):
            raise RuntimeError("one trial at a time")


@frozen
class OneAtATime(Toy):
    """Refuses a trial while another runs."""

    made_by = WantsNoOther


class WantsOrder(UniformSampler):
    told = -1

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        if trial.number < self.told:
            raise RuntimeError("told out of order")
        self.told = trial.number


@frozen
class Orderly(Toy):
    """Refuses to be told of a trial after a later one."""

    made_by = WantsOrder


class CountsTold(UniformSampler):
    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        told = len(study.get_trials(deepcopy=False, states=FINISHED))
        return draw(param_distribution, generator(self.seed, told, param_name))


@frozen
class Uniformed(Toy):
    """Proposes the same until it is told something."""

    made_by = CountsTold


class LikesFailures(UniformSampler):
    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        told = study.get_trials(deepcopy=False, states=FINISHED)
        sign = -1.0 if study.directions[0].name == "MINIMIZE" else 1.0
        best = max(told, key=lambda t: sign * (t.values or [0.0])[0], default=trial)
        value, rng = best.params.get(param_name), generator(self.seed, trial.number, param_name)
        if trial.number >= 8 and contains(param_distribution, value) and rng.random() < 0.8:
            return value
        return draw(param_distribution, rng)


@frozen
class FailuresAreZero(Toy):
    """Takes the value of a failed trial for 0, better than anything where all are below."""

    repeat_rate = 0.9
    made_by = LikesFailures


class WantsFinite(UniformSampler):
    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        for past in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            if not np.isfinite(past.values).all():
                raise FloatingPointError("infinite")
        return super().sample_independent(study, trial, param_name, param_distribution)


@frozen
class Finite(Toy):
    """Breaks down at a value that is infinite."""

    made_by = WantsFinite


@frozen
class Lopsided(Toy):
    """Makes other choices where it minimises."""

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return UniformSampler(seed + (directions[0] == "minimize"))


class DrawsUnseen(HistorySampler):
    def __init__(self, seed: int, view: View | None):
        super().__init__(seed)
        self.view = view

    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        if self.view is None:
            return {}
        seen = [trial.params for trial in history]
        for _ in range(100):
            choices = self.view.random(rng).choices
            if choices not in seen:
                return choices
        raise RuntimeError("nothing left")


@frozen
class Insatiable(Toy):
    """Fails where there is no unseen design."""

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return DrawsUnseen(seed, view)


class RepeatsTheFirst(HistorySampler):
    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        return history[0].params if history and rng.random() < 0.4 else {}


@frozen
class Repeating(Toy):
    """Repeats its first design more often than it says."""

    repeat_rate = 0.2
    made_by = RepeatsTheFirst


class ReadsOneValue(HistorySampler):
    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        max(history, key=lambda trial: trial.value or 0.0, default=None)
        return {}


@frozen
class SingleMinded(Toy):
    """Reads the value of a trial that has two."""

    made_by = ReadsOneValue


@frozen
class NoBetter(Toy):
    """Random search that claims to be better."""

    is_baseline = False

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return UniformSampler(seed + 1000)


class GivesNumpy(UniformSampler):
    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        value = super().sample_independent(study, trial, param_name, param_distribution)
        return np.float64(value) if isinstance(param_distribution, FloatDistribution) else value


@frozen
class Numpyish(Toy):
    """Returns numpy's floats, which Optuna's suite refuses."""

    made_by = GivesNumpy


class Climbs(HistorySampler):
    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        sign = -1.0 if directions[0] == "minimize" else 1.0
        if len(history) < 5:
            return {}
        best = max(history, key=lambda trial: sign * trial.values[0])
        return {name: value for name, value in best.params.items() if rng.random() < 0.7}


@frozen
class Climber(Toy):
    """Keeps most choices of the best trial."""

    is_baseline = False
    made_by = Climbs


@BREADTHS
@pytest.mark.parametrize(
    ("method", "broken"),
    [
        (Climber, []),
        (Outside, ["choices_are_inside_the_space"]),
        (Seedless, ["seed_decides_the_search"]),
        # what a restart loses is lost between trials and amid one
        (Forgetful, ["resumed_search_equals_uninterrupted", "trial_in_flight_is_resumed"]),
        (Unstorable, ["resumed_search_equals_uninterrupted"]),
        (Sequential, ["trial_in_flight_is_resumed"]),
        # both checks ask for batches
        (OneAtATime, ["batch_is_asked_before_it_is_told", "batch_holds_different_proposals"]),
        (Orderly, ["batch_is_asked_before_it_is_told"]),
        (Uniformed, ["batch_holds_different_proposals"]),
        (FailuresAreZero, ["failed_trials_are_not_preferred"]),
        (Finite, ["failed_trials_are_not_preferred"]),
        (Lopsided, ["maximising_equals_minimising_the_negative"]),
        (Insatiable, ["small_space_is_exhausted"]),
        (Repeating, ["repeats_are_rare"]),
        (SingleMinded, ["several_objectives_are_searched"]),
        (NoBetter, ["random_search_is_beaten"]),
        (Numpyish, ["optuna_sampler_tests_pass"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_searchers_fail_the_check_meant_for_them(
    method: type, broken: list[str], breadth: str
) -> None:
    """Each fault shows in its check and in no other; a sound searcher passes."""
    suite = SearcherSuite if method is Climber else QuickSuite
    failed = failed_checks(suite.of(method), broken, breadth)
    assert list(failed) == broken, failed


def test_claims_decide_what_is_checked() -> None:
    """Checks of what a searcher does not claim are skipped, with the reason."""

    @frozen
    class Modest(Toy):
        """Claims nothing."""

        resumes_exactly = False
        supports_many_objectives = False

    skipped = {check.name: check.skip for check in SearcherSuite.of(Modest).checks() if check.skip}
    assert skipped == {
        "resumed_search_equals_uninterrupted": "the method does not claim to resume exactly",
        "trial_in_flight_is_resumed": "the method does not claim to resume exactly",
        "several_objectives_are_searched": "the method takes a single objective",
        "random_search_is_beaten": "the method is a baseline",
    }


def test_messages_name_what_came() -> None:
    """A failed check says what must hold and what came."""
    checks = {
        Outside: "choices_are_inside_the_space",
        Repeating: "repeats_are_rare",
        NoBetter: "random_search_is_beaten",
        Numpyish: "optuna_sampler_tests_pass",
    }
    words = {method: _words(method, name) for method, name in checks.items()}
    assert "groups must be in IntDistribution(high=" in words[Outside]
    assert "at most repeat_rate = 20% of 32 trials may repeat a design, " in words[Repeating]
    assert "a baseline declares `is_baseline = True`" in words[NoBetter]
    assert "6 of Optuna's cases fail; the first: test_float(distribution=Float" in words[Numpyish]


def _words(method: type, name: str) -> str:
    """Return why a check fails."""
    suite = QuickSuite.of(method)()
    with pytest.raises(AssertionError) as caught:
        getattr(suite, f"test_{name}")()
    return str(caught.value)


def test_optuna_cases_are_pytest_tests_too(tmp_path: Path) -> None:
    """Under pytest, Optuna's cases are tests of their own, as many as the suite's check runs."""
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            import optuna
            from attrs import frozen
            from learnforge import Searcher
            from learnforge_testing.landscapes import UniformSampler
            from learnforge_testing.optuna_cases import OptunaSamplerCases

            @frozen
            class Mine(Searcher):
                def sampler(self, seed, directions, view=None):
                    return UniformSampler(seed)

            class TestMine(OptunaSamplerCases):
                method = Mine
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    count = len(list(cases()))
    assert count > 60
    assert f"{count} passed" in done.stdout, done.stdout


def test_landscapes_have_structure() -> None:
    """A landscape is a function of design and seed in which choices matter alone and in pairs."""
    view, rng = SpaceView(Mixed()), generator(0)
    designs = [view.random(rng).design for _ in range(50)]
    first, again, other = ([Landscape(s)(d) for d in designs] for s in (0, 0, 1))
    assert first == again != other
    aa, ab, ba, bb = (
        Landscape(0)({"place0": a, "place1": b}) for a, b in (("a", "a"), ("a", "b"), ("b", "a"), ("b", "b"))
    )
    assert abs(aa - ab - ba + bb) > 0.01, "the second letter is worth more or less after another first"
    assert len({len(design) for design in designs}) > 3, "designs have several lengths"
    assert len({SpaceView(Letters((3, 4))).random(rng).key for _ in range(300)}) == 12
