"""What every searcher must keep to. Whole searches run over toy landscapes; nothing is trained."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import statistics
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import optuna
import torch
from optuna.trial import FrozenTrial, Trial, TrialState

from learnforge.context import Context
from learnforge.kinds.searcher import DirectSearcher, Searcher
from learnforge.kinds.space import Design, Space, design_key
from learnforge.plugins.registry import Plugins
from learnforge_kit.search.sampler import contains
from learnforge_kit.search.view import SpaceView, TrialPick
from learnforge_plugins.stages.search.admission import Admission
from learnforge_plugins.stages.search.driver import Driver
from learnforge_plugins.stages.search.record import Goal
from learnforge_plugins.stages.search.storage import Direction, open_study
from learnforge_testing.landscapes import Instant, Landscape, Letters, Mixed, UniformSampler
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import Suite, needs, require

Objective = Callable[[Design], Sequence[float] | None]


UP: tuple[Direction, ...] = ("maximize",)


BATCH = 4


LANDSCAPES = 10


def _has_optuna_cases(suite: Any) -> bool:
    return all(importlib.util.find_spec(name) for name in ("pytest", "optuna.testing.pytest_samplers"))


def _height(design: Design) -> Sequence[float]:
    return [Landscape(0)(design)]


class SearcherSuite(MethodSuite):
    """Checks of a searcher.

    Args:
        trials: Trials of a search. It must be more than twice as many as the method draws at random before it
            begins to learn, or the checks see nothing but those.
    """

    kind = "searcher"
    base = Searcher
    trials: ClassVar[int] = 60

    @classmethod
    def fitting(cls, method: Any) -> type[Suite]:
        if not (isinstance(method, type) and issubclass(method, DirectSearcher)):
            return cls
        from learnforge_testing.direct_searcher import DirectSearcherSuite

        return DirectSearcherSuite

    def result(self) -> list[Mapping[str, Any]]:
        """Return the choices of a search."""
        return self._search()

    def test_choices_are_inside_the_space(self) -> None:
        """Every choice is one that the space offers: numbers, logarithms, steps, categories, and choices that
        only come up after others.
        """
        with self._study() as study:
            _advance(study, Mixed(), _height, self.trials)
            _require_inside(study)

    def test_seed_decides_the_search(self) -> None:
        """The same seed gives the same search, another seed another one."""
        first = self._search(seed=0)
        _require_equal(first, self._search(seed=0), "with the same seed")
        require(first != self._search(seed=1), "the seeds 0 and 1 must not give the same search")

    @needs(lambda suite: suite.method.resumes_exactly, "the method does not claim to resume exactly")
    def test_resumed_search_equals_uninterrupted(self) -> None:
        """Cut off between two trials and opened again from its database, a search goes on as it
        would have.
        """
        cut = self.trials // 2
        with tempfile.TemporaryDirectory() as folder:
            for until in (cut, cut + 10):
                with self._study(path=Path(folder) / "study.db") as study:
                    _advance(study, Mixed(), _height, until)
                    resumed = _choices(study)
        _require_equal(self._search()[: cut + 10], resumed, f"resumed after {cut} trials")

    @needs(lambda suite: suite.method.resumes_exactly, "the method does not claim to resume exactly")
    def test_trial_in_flight_is_resumed(self) -> None:
        """Cut off amid the choices of a trial, a search makes the remaining ones as it would have."""
        cut = self.trials // 2
        with self._study() as study:
            _advance(study, Mixed(), _height, cut)
            trial = study.ask()
            Mixed().begin(TrialPick(trial))
            study.sampler = self._sampler(Mixed())
            trial = Trial(study, trial._trial_id)
            _tell(study, trial, _height(Mixed().design(TrialPick(trial))))
            _advance(study, Mixed(), _height, self.trials)
            resumed = _choices(study)
        _require_equal(self._search(), resumed, f"resumed amid trial {cut}")

    def test_batch_is_asked_before_it_is_told(self) -> None:
        """A batch can be asked before any of it is told; told in trial order the search is the same again,
        told in another order it still goes on.
        """
        first = self._search(batch=BATCH)
        _require_equal(first, self._search(batch=BATCH), f"in batches of {BATCH}")
        with self._study() as study:
            _advance(study, Mixed(), _height, self.trials, BATCH, order=-1)

    def test_batch_holds_different_proposals(self) -> None:
        """The proposals of a batch are not all the same: parallel workers would repeat each other."""
        found = self._search(batch=BATCH)
        for start in range(0, len(found), BATCH):
            batch = found[start : start + BATCH]
            require(
                any(choices != batch[0] for choices in batch),
                f"the {BATCH} proposals of a batch must not all be equal, those from trial {start} on are "
                f"all {batch[0]}",
            )

    def test_failed_trials_are_not_preferred(self) -> None:
        """Trials that fail, or end with a value that is not finite, neither stop the search nor
        attract it.
        """
        outcomes = {"fail": None, "end as NaN": [math.nan], "end as minus infinity": [-math.inf]}
        for words, outcome in outcomes.items():
            share = statistics.mean(self._share_of_gated(outcome, seed) for seed in range(3))
            require(
                share <= 0.6,
                f"where all trials with kind = gated {words}, at most 60 % of the later half may be such, "
                f"got {share:.0%}",
            )

    def test_maximising_equals_minimising_the_negative(self) -> None:
        """A search that maximises f makes the same choices as one that minimises -f."""
        mirrored = self._search(("minimize",), lambda design: [-Landscape(0)(design)])
        _require_equal(self._search(), mirrored, "minimising the negative")

    def test_small_space_is_exhausted(self) -> None:
        """Driven over a space of 12 designs, the search finds each of them once, then ends."""
        space = Letters((3, 4))
        with self._study(space) as study:
            driver = _drive(space, study, trials=20)
            records = driver.run()
        found = len({record.key for record in records})
        require(
            found == len(records) == 12 and driver.is_exhausted,
            f"a space of 12 designs must be exhausted after 12 trials, {found} different designs came in "
            f"{len(records)}",
        )

    def test_repeats_are_rare(self) -> None:
        """Designs are proposed again no more often than `repeat_rate` says, in a space of 1,024."""
        space = Letters((4,) * 5)
        found = self._search(space=space)
        rate = 1 - len({design_key(dict(choices)) for choices in found}) / len(found)
        require(
            rate <= self.method.repeat_rate,
            f"at most repeat_rate = {self.method.repeat_rate:.0%} of {len(found)} trials may repeat a "
            f"design, {rate:.0%} do",
        )

    @needs(lambda suite: suite.method.supports_many_objectives, "the method takes a single objective")
    def test_several_objectives_are_searched(self) -> None:
        """One objective is maximised and one minimised at once, the same way for the same seed."""
        directions: tuple[Direction, ...] = ("maximize", "minimize")

        def objective(design: Design) -> Sequence[float]:
            return [Landscape(0)(design), Landscape(1)(design)]

        searches = [self._search(directions, objective) for _ in range(2)]
        _require_equal(searches[0], searches[1], "with the same seed and two objectives")

    @needs(lambda suite: not suite.method.is_baseline, "the method is a baseline")
    def test_random_search_is_beaten(self) -> None:
        """Its last quarter of trials is better than that of random search: paired over 10 landscapes,
        t > 3.
        """
        gains = []
        for seed in range(LANDSCAPES):
            with self._study(seed=seed) as study, _open(UniformSampler(seed)) as baseline:
                gains.append(self._late_mean(study, seed) - self._late_mean(baseline, seed))
        mean, error = statistics.mean(gains), statistics.stdev(gains) / math.sqrt(LANDSCAPES)
        t = mean / error if error else math.inf * mean if mean else 0.0
        require(
            t > 3,
            f"the later trials must be better than those of random search with t > 3 over {LANDSCAPES} "
            f"landscapes, got t = {t:.2f} (mean gain {mean:.3g}); a baseline declares `is_baseline = True`",
        )

    @needs(_has_optuna_cases, "Optuna's cases need pytest")
    def test_optuna_sampler_tests_pass(self) -> None:
        """Optuna's own basic cases for samplers pass."""
        from learnforge_testing.optuna_cases import failures

        failed = failures(self.make())
        require(not failed, f"{len(failed)} of Optuna's cases fail; the first: {''.join(failed[:1])}")

    def _sampler(
        self, space: Space, directions: Sequence[Direction] = UP, seed: int = 0
    ) -> optuna.samplers.BaseSampler:
        sampler: optuna.samplers.BaseSampler = self.make().sampler(seed, directions, SpaceView(space))
        return sampler

    def _study(
        self,
        space: Space = Mixed(),  # noqa: B008 - frozen and without state
        directions: Sequence[Direction] = UP,
        seed: int = 0,
        path: Path | None = None,
    ) -> contextlib.AbstractContextManager[optuna.Study]:
        return _open(self._sampler(space, directions, seed), directions, path)

    def _search(
        self,
        directions: Sequence[Direction] = UP,
        objective: Objective | None = None,
        seed: int = 0,
        batch: int = 1,
        space: Space = Mixed(),  # noqa: B008 - frozen and without state
    ) -> list[Mapping[str, Any]]:
        """Search to the end and return the choices of every trial."""
        with self._study(space, directions, seed) as study:
            _advance(study, space, objective or _height, self.trials, batch)
            return _choices(study)

    def _share_of_gated(self, outcome: Sequence[float] | None, seed: int) -> float:
        """Return how many of the later trials are of a kind that always comes out so; others are below 0."""

        def objective(design: Design) -> Sequence[float] | None:
            return outcome if design["kind"] == "gated" else [-math.exp(-Landscape(seed)(design) / 4)]

        late = self._search(objective=objective, seed=seed)[self.trials // 2 :]
        return float(sum(choices["kind"] == "gated" for choices in late)) / len(late)

    def _late_mean(self, study: optuna.Study, seed: int) -> float:
        _advance(study, Mixed(), lambda design: [Landscape(seed)(design)], self.trials)
        late = _trials(study)[-self.trials // 4 :]
        return float(sum(trial.values[0] for trial in late)) / len(late)


def _open(
    sampler: optuna.samplers.BaseSampler, directions: Sequence[Direction] = UP, path: Path | None = None
) -> contextlib.AbstractContextManager[optuna.Study]:
    return open_study(path, "toy", directions, sampler)


def _advance(
    study: optuna.Study, space: Space, objective: Objective, until: int, batch: int = 1, order: int = 1
) -> None:
    """Ask batches and tell them, in trial order or backwards, until the study holds so many trials."""
    while len(_trials(study)) < until:
        asked = [study.ask() for _ in range(batch)]
        values = [objective(space.design(TrialPick(trial))) for trial in asked]
        for trial, value in list(zip(asked, values, strict=True))[::order]:
            _tell(study, trial, value)


def _tell(study: optuna.Study, trial: Trial, values: Sequence[float] | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns of NaN, which is meant here
        study.tell(trial, values, state=TrialState.FAIL if values is None else None)


def _drive(space: Space, study: optuna.Study, trials: int) -> Driver:
    """Make a driver whose trials end at once."""
    context = Context("toy", 0, torch.device("cpu"), Plugins())
    objective, executor = Instant(space, Landscape(0)), context.plugins.load("executor", "serial")()
    return Driver(Admission(Goal(trials, ("accuracy",), {}), objective, context), study, executor, threads=1)


def _trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)


def _choices(study: optuna.Study) -> list[Mapping[str, Any]]:
    return [trial.params for trial in _trials(study)]


def _require_inside(study: optuna.Study) -> None:
    for trial in _trials(study):
        for name, distribution in trial.distributions.items():
            require(
                contains(distribution, trial.params[name]),
                f"trial {trial.number}: {name} must be in {distribution}, got {trial.params[name]!r}",
            )


def _require_equal(
    expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], how: str
) -> None:
    for number, (a, b) in enumerate(zip(expected, found, strict=True)):
        require(a == b, f"{how} the choices must be the same, but trial {number} has {b} in place of {a}")
