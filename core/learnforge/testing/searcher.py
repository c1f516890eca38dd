"""The duties of a searcher: what its sampler proposes, on made-up landscapes that cost nothing."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import optuna
import torch
from attrs import frozen
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, Trial, TrialState
from torch import nn

from learnforge.context import Context, Executor, Slot
from learnforge.plugins import Plugins
from learnforge.plugins.isolation import words
from learnforge.space import Design, Pick, Space, design_key
from learnforge.stages.search.driver import Driver, Goal, Record
from learnforge.stages.search.sampler import HistorySampler, contains
from learnforge.stages.search.searcher import Searcher
from learnforge.stages.search.trial import TrialResult
from learnforge.stages.search.view import SpaceView, TrialPick
from learnforge.task import TaskInfo
from learnforge.testing.method import MethodSuite
from learnforge.testing.suite import needs, require
from learnforge.testing.toys import make_task
from learnforge.training import Train

LANDSCAPES = 10
TRIALS = 48
Value = Callable[[Design], Sequence[float]]
"""Gives a design's objectives."""


@frozen
class MixedSpace(Space):
    """Categories, whole numbers, numbers, logarithms, and choices that only some designs have."""

    def design(self, pick: Pick) -> Design:
        layers = []
        for i in range(pick.integer("depth", 1, 3)):
            op = pick.choice(f"layer{i}.op", ("conv", "pool", "skip"))
            width = pick.integer(f"layer{i}.width", 8, 64, step=8) if op == "conv" else 0
            layers.append({"op": op, "width": width})
        rate = pick.number("rate", 1e-4, 1e-1, log=True)
        return {"layers": layers, "rate": rate, "share": pick.number("share", -1.0, 1.0)}

    def build(self, design: Design, task: TaskInfo) -> nn.Module:
        return _tiny(task)


@frozen
class GridSpace(Space):
    """So many choices of so many categories each.

    Args:
        choices: Choices.
        categories: Categories of each.
    """

    choices: int = 6
    categories: int = 4

    def design(self, pick: Pick) -> Design:
        return {f"c{i}": pick.choice(f"c{i}", tuple(range(self.categories))) for i in range(self.choices)}

    def build(self, design: Design, task: TaskInfo) -> nn.Module:
        return _tiny(task)


class TwelveSpace(GridSpace):
    """Twelve designs: three of one choice times four of another."""

    def design(self, pick: Pick) -> Design:
        return {"a": pick.choice("a", ("x", "y", "z")), "b": pick.integer("b", 1, 4)}


class SearcherSuite(MethodSuite):
    """Checks of a searcher's sampler. Nothing is trained."""

    method: ClassVar[Any]
    base: ClassVar[type] = Searcher
    kind: ClassVar[str] = "searcher"

    def result(self) -> Any:
        return [trial.params for trial in self.explore(MixedSpace(), _mixed_value, 20)]

    def explore(
        self,
        space: Space,
        value: Value,
        trials: int,
        seed: int = 0,
        directions: Sequence[str] = ("maximize",),
        study: optuna.Study | None = None,
    ) -> list[FrozenTrial]:
        """Search one trial after the other, in a new study or going on in one; return all its trials."""
        study = study or self.study(space, seed, directions)
        for _ in range(trials):
            trial = study.ask()
            study.tell(trial, list(value(space.design(TrialPick(trial)))))
        return study.get_trials()

    def study(self, space: Space, seed: int = 0, directions: Sequence[str] = ("maximize",)) -> optuna.Study:
        """Make a study in memory with the searcher's sampler."""
        return _new_study(self.sampler(space, seed, directions), directions)

    def sampler(self, space: Space, seed: int = 0, directions: Sequence[str] = ("maximize",)) -> BaseSampler:
        """Ask the searcher for its sampler, as the driver does at the start and after every restart."""
        found: BaseSampler = self.make().sampler(seed, list(directions), SpaceView(space))
        return found

    def test_choices_are_inside_the_space(self) -> None:
        """Every choice is one that could be made: categories, ranges, steps, logarithms, conditional ones."""
        for trial in self.explore(MixedSpace(), _mixed_value, 40):
            _require_inside(trial)

    def test_same_seed_gives_the_same_trials(self) -> None:
        """The seed is the only source of randomness, and it is one."""
        first, again, other = (self._params(seed) for seed in (3, 3, 4))
        require(first == again, "two searches with one seed must make the same choices")
        require(first != other, "searches with different seeds must differ")

    @needs(lambda suite: suite.method.resumes_exactly, "the searcher does not claim to resume exactly")
    def test_resumed_equals_uninterrupted(self) -> None:
        """A new sampler on the same study goes on as the old one would have, a trial in flight included."""
        whole = [trial.params for trial in self.explore(MixedSpace(), _mixed_value, 24)]
        space, study = MixedSpace(), self.study(MixedSpace())
        self.explore(space, _mixed_value, 12, study=study)
        cut = study.ask()
        space.design(TrialPick(cut))  # its choices are stored; then the process is killed
        study.sampler = self.sampler(space)
        taken_up = Trial(study, cut._trial_id)
        study.tell(taken_up, list(_mixed_value(space.design(TrialPick(taken_up)))))
        resumed = [trial.params for trial in self.explore(space, _mixed_value, 11, study=study)]
        first = next(
            (i for i, pair in enumerate(zip(whole, resumed, strict=True)) if pair[0] != pair[1]), None
        )
        require(first is None, f"trial {first} after a restart differs from that of a search without one")

    def test_batches_are_asked_before_they_are_told(self) -> None:
        """Several trials may be in flight: they differ, and the order in which they end does not count."""
        batches = []
        for is_reversed in (False, True):
            space = MixedSpace()
            study = self.study(space)
            self.explore(space, _mixed_value, 8, study=study)
            asked = _ask(study, space, 4)
            for trial, design in reversed(asked) if is_reversed else asked:
                study.tell(trial, list(_mixed_value(design)))
            batches.append(([t.params for t, _ in asked], [t.params for t, _ in _ask(study, space, 4)]))
        keys = {str(params) for params in batches[0][0]}
        require(len(keys) > 1, "the trials of a batch must not all be the same")
        require(batches[0] == batches[1], "the next batch must not depend on the order in which trials ended")

    def test_failed_trials_are_survived(self) -> None:
        """Trials that fail, from the first on or now and then, break nothing; nor do results that are NaN."""
        space = MixedSpace()
        study = self.study(space)
        for number in range(24):
            trial = study.ask()
            values = list(_mixed_value(space.design(TrialPick(trial))))
            if number < 6 or number % 3 == 0:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, values)
        for told in study.get_trials():
            _require_inside(told)
        records = self._drive(TwelveSpace(), 12, lambda design: [math.nan if design["a"] == "x" else 1.0])
        require(
            len(records) == 8, f"must go on past 4 of 12 designs whose result is NaN, got {len(records)} of 8"
        )

    def test_maximising_equals_minimising_the_negative(self) -> None:
        """The sign of an objective is a matter of notation."""
        up = self.explore(MixedSpace(), _mixed_value, 24)
        down = self.explore(
            MixedSpace(), lambda d: [-v for v in _mixed_value(d)], 24, directions=["minimize"]
        )
        same = [first.params == second.params for first, second in zip(up, down, strict=True)]
        require(all(same), "maximising f and minimising -f must make the same choices")

    def test_small_space_is_exhausted(self) -> None:
        """A space of twelve designs is searched to its end, each trained once, and then the search stops."""
        records = self._drive(TwelveSpace(), 40, _Landscape(0))
        keys = {record.key for record in records}
        require(len(keys) == len(records) == 12, f"must evaluate each of 12 designs once, got {len(records)}")

    def test_repeats_are_rarer_than_declared(self) -> None:
        """Few trials in a large space repeat an earlier design: at most the share that is declared."""
        trials = self.explore(GridSpace(5, 4), _Landscape(0), 60)
        keys = [design_key(trial.params) for trial in trials]
        share = 1 - len(set(keys)) / len(keys)
        most = self.method.repeat_rate
        require(
            share <= most,
            f"of 60 trials among 1024 designs {share:.0%} repeat, at most {most:.0%} may",
        )

    @needs(lambda suite: suite.method.supports_many_objectives, "the searcher takes one objective")
    def test_several_objectives_are_searched(self) -> None:
        """With two objectives, one up and one down, choices stay inside the space and are the seed's."""
        directions = ("maximize", "minimize")
        runs = [self.explore(MixedSpace(), _two_values, 24, directions=directions) for _ in range(2)]
        for trial in runs[0]:
            _require_inside(trial)
        same = [[trial.params for trial in trials] for trials in runs]
        require(same[0] == same[1], "two searches with one seed must make the same choices")

    @needs(lambda suite: not suite.method.is_baseline, "the searcher is a baseline")
    def test_it_beats_random_search(self) -> None:
        """The last quarter of its trials is better than that of random search: t > 3 over ten landscapes."""
        gains = []
        for number in range(LANDSCAPES):
            space, value = GridSpace(), _Landscape(number)
            own = _late_mean(self.explore(space, value, TRIALS, seed=number))
            study = _new_study(_Uniform(number), ["maximize"])
            gains.append(own - _late_mean(self.explore(space, value, TRIALS, study=study)))
        spread = float(np.std(gains, ddof=1)) / math.sqrt(LANDSCAPES)
        t = float(np.mean(gains)) / (spread or 1.0)
        require(t > 3, f"must beat random search with t > 3 over {LANDSCAPES} landscapes, got t = {t:.1f}")

    @needs(lambda suite: importlib.util.find_spec("pytest") is not None, "Optuna's tests need pytest")
    def test_optuna_tests_pass(self) -> None:
        """Optuna's own tests of samplers, `optuna.testing.pytest_samplers.BasicSamplerTestCase`, pass."""
        from optuna.testing.pytest_samplers import BasicSamplerTestCase

        def make() -> BaseSampler:
            found: BaseSampler = self.make().sampler(0, ["minimize"], None)
            return found

        with _quiet_optuna():  # which logs the trials that its tests let fail
            for name, test in inspect.getmembers(BasicSamplerTestCase, inspect.isfunction):
                for case in _cases(test) if name.startswith("test_") else ():
                    _run_case(test, make, case)

    def _params(self, seed: int) -> list[dict[str, Any]]:
        return [trial.params for trial in self.explore(MixedSpace(), _mixed_value, 16, seed=seed)]

    def _drive(self, space: Space, trials: int, value: Value) -> list[Record]:
        """Search with learnforge's own driver, the trials' results made up."""
        goal = Goal(trials, ("accuracy",), {}, batch=4)
        context = Context("suite", 0, torch.device("cpu"), Plugins())
        study = self.study(space)
        return Driver(goal, space, make_task(), Train(), study, context, _MadeUp(value), 1).run()


class _Uniform(HistorySampler):
    """Draws every choice uniformly."""

    def propose(
        self, history: Sequence[FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        return {}


class _Landscape:
    """A sum of one table for each choice and one for each pair of neighbours, all drawn from a seed.

    Args:
        seed: Which landscape.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, design: Design) -> list[float]:
        values = list(design.values())
        own = sum(self._entry(i, value) for i, value in enumerate(values))
        pairs = sum(self._entry(i, *pair) for i, pair in enumerate(itertools.pairwise(values)))
        return [own + 0.5 * pairs]

    def _entry(self, place: int, *values: Any) -> float:
        words = [self.seed, place, *(sum(str(value).encode()) for value in values)]
        return float(np.random.default_rng(words).normal())


class _MadeUp(Executor):
    """Makes up the result of each trial on the spot.

    Args:
        value: Gives a design's accuracy.
    """

    def __init__(self, value: Value):
        self._value = value

    def open(
        self, slots: Sequence[Slot], setup: Callable[..., None], arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        return [_MadeUpSlot(self._value) for _ in slots]


class _MadeUpSlot(concurrent.futures.Executor):
    def __init__(self, value: Value):
        self._value = value

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        (job,) = args
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        accuracy = self._value(job.design)[0]
        future.set_result(TrialResult(job.number, {"accuracy": accuracy, "loss": -accuracy}, 0.0))
        return future


def _tiny(task: TaskInfo) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.input_shape), task.outputs))


def _mixed_value(design: Design) -> list[float]:
    """Favour wide convolutions, a rate near 0.01 and a share near 0.3."""
    width = sum(layer["width"] for layer in design["layers"])
    return [width / 64 - (math.log10(design["rate"]) + 2) ** 2 - (design["share"] - 0.3) ** 2]


def _two_values(design: Design) -> list[float]:
    return [*_mixed_value(design), float(sum(layer["width"] for layer in design["layers"]))]


def _ask(study: optuna.Study, space: Space, count: int) -> list[tuple[Trial, Design]]:
    return [(trial, space.design(TrialPick(trial))) for trial in [study.ask() for _ in range(count)]]


def _late_mean(trials: Sequence[FrozenTrial]) -> float:
    """Return the mean value of the last quarter of the trials."""
    return float(np.mean([trial.value for trial in trials[-len(trials) // 4 :]]))


def _require_inside(trial: FrozenTrial) -> None:
    for name, value in trial.params.items():
        distribution = trial.distributions[name]
        require(
            contains(distribution, value),
            f"{name} = {value!r} of trial {trial.number} is not in {distribution}",
        )


def _new_study(sampler: BaseSampler, directions: Sequence[str]) -> optuna.Study:
    named: Any = list(directions)
    with _quiet_optuna():
        return optuna.create_study(sampler=sampler, directions=named, study_name="suite")


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _run_case(test: Any, make: Callable[[], BaseSampler], case: Mapping[str, Any]) -> None:
    """Run one case of one of Optuna's tests."""
    try:
        test(None, sampler=make, **case)  # its tests read nothing from their instance
    except Exception as error:
        told = ", ".join(f"{key}={value}" for key, value in case.items())
        raise AssertionError(f"Optuna's {test.__name__}({told}): {words(error)}") from error


def _cases(test: Any) -> Iterator[dict[str, Any]]:
    """Yield the arguments of every case of a test that pytest would parametrize."""
    marks = [mark for mark in getattr(test, "pytestmark", ()) if mark.name == "parametrize"]
    columns = [[_named(mark.args[0], values) for values in mark.args[1]] for mark in marks]
    for combination in itertools.product(*columns):
        yield {name: value for part in combination for name, value in part.items()}


def _named(names: str, values: Any) -> dict[str, Any]:
    split = [name.strip() for name in names.split(",")]
    return {split[0]: values} if len(split) == 1 else dict(zip(split, values, strict=True))
