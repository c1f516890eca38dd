"""Optuna's own cases for samplers, as tests of a searcher.

Importing this file imports pytest. Under pytest each case is a test of its own:

    class TestMySampler(OptunaSamplerCases):
        method = MySearcher

`SearcherSuite` runs the same cases as one check, `optuna_sampler_tests_pass`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase

from learnforge.options.structure import build


class OptunaSamplerCases(BasicSamplerTestCase):
    """Optuna's basic cases as pytest tests of a searcher; not to be mixed into a suite.

    Args:
        method: The searcher's class.
        options: Options to make it with, as a recipe would give them.
    """

    method: ClassVar[type[Any]]
    options: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        """Make samplers of the method."""
        return lambda: make_sampler(build(self.method, dict(self.options), type(self).__name__))


def make_sampler(searcher: Any) -> BaseSampler:
    """Make a searcher's sampler as Optuna's cases want it: one objective to minimise, no space."""
    sampler: BaseSampler = searcher.sampler(0, ["minimize"])
    return sampler


def failures(searcher: Any) -> list[str]:
    """Run every case without pytest and return what failed: the case and the error."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return [f"{name}: {words}" for name, run in cases() if (words := _failure(run, searcher))]
    finally:
        optuna.logging.set_verbosity(verbosity)


def cases() -> Iterator[tuple[str, Callable[..., None]]]:
    """Yield every case: its name, and a function of what makes samplers."""
    for name in dir(BasicSamplerTestCase):
        if name.startswith("test_"):
            function = getattr(BasicSamplerTestCase(), name)
            for given in _parameters(function):
                yield _name(name, given), _bind(function, given)


def _parameters(function: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """Yield the arguments of each call that the `parametrize` marks of a test ask for."""
    sets = []
    for mark in getattr(function, "pytestmark", ()):
        if mark.name != "parametrize":
            raise NotImplementedError(f"{function.__qualname__}: no way to run the mark {mark.name!r}")
        names = mark.args[0].replace(" ", "").split(",") if isinstance(mark.args[0], str) else mark.args[0]
        values = mark.args[1] if len(names) > 1 else [(value,) for value in mark.args[1]]
        sets.append([dict(zip(names, value, strict=True)) for value in values])
    for chosen in itertools.product(*sets):
        yield {name: value for part in chosen for name, value in part.items()}


def _bind(function: Callable[..., None], given: Mapping[str, Any]) -> Callable[..., None]:
    return lambda sampler: function(sampler=sampler, **given)


def _name(name: str, given: Mapping[str, Any]) -> str:
    words = ", ".join(f"{key}={value}" for key, value in given.items() if not callable(value))
    return f"{name}({words})" if words else name


def _failure(run: Callable[..., None], searcher: Any) -> str:
    try:
        run(lambda: make_sampler(searcher))
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""
