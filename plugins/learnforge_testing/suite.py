"""What a conformance suite is: checks that pytest collects and that run without pytest just as well.

A suite is a class whose methods named `test_…` are its checks. An author derives from the suite of her kind,
and names her class as pytest wants it:

    class TestSoft(DistillerSuite):
        method = Soft
        options = {"temperature": 2.0}
        expected_failures = {"bfloat16_is_close": "loses digits above a temperature of 100"}

`learnforge conformance distiller.soft` runs the same checks. A check skips only where `needs` says so, before
it runs, so whether a suite checks anything is known beforehand: one that checks nothing fails.
"""

from __future__ import annotations

import functools
import inspect
import sys
import unittest
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, ClassVar, Literal, NoReturn, TypeVar

from attrs import asdict, frozen

from learnforge.errors import nearest
from learnforge.options.structure import build
from learnforge.plugins.registry import Plugins

State = Literal["passed", "failed", "skipped", "expected failure"]


_META = "suite_checks_something"
"""The check of the suite itself, which counts for none of the method's."""

F = TypeVar("F", bound=Callable[..., None])


def require(condition: object, message: str) -> None:
    """Fail a check with a message that says what must hold and what came."""
    if not condition:
        raise AssertionError(message)


def needs(condition: Callable[[Any], object], reason: str) -> Callable[[F], F]:
    """Let a check run only where `condition(suite instance)` holds; elsewhere it is skipped with the reason.

    Args:
        condition: Reads what the suite and its method declare; it must not depend on other checks.
        reason: Words for the report, such as `the method is a baseline`.
    """

    def decorate(check: F) -> F:
        @functools.wraps(check)
        def checked(self: Suite) -> None:
            if not condition(self):
                raise unittest.SkipTest(reason)
            check(self)

        checked.learnforge_needs = (condition, reason)  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


@frozen
class Check:
    """One check of a suite as it applies to a method.

    Args:
        name: Name of the check, without `test_`.
        function: The check, called with an instance of the suite.
        skip: Why it does not apply, or "".
        expected: Why the method is known to fail it, or "".
    """

    name: str
    function: Callable[[Any], None]
    skip: str = ""
    expected: str = ""


@frozen
class Outcome:
    """How a check went.

    Args:
        name: Name of the check.
        state: `passed`, `failed`, `skipped` or `expected failure`.
        words: Why, for all but passed checks.
    """

    name: str
    state: State
    words: str = ""


@frozen
class Report:
    """How a suite went.

    Args:
        title: What was checked.
        outcomes: How each check went, in order.
    """

    title: str
    outcomes: tuple[Outcome, ...]

    def count(self, state: State) -> int:
        """Return how many checks ended so."""
        return sum(outcome.state == state for outcome in self.outcomes)

    @property
    def ran(self) -> int:
        """Checks of the method that ran: all but the skipped ones."""
        return sum(outcome.state != "skipped" and outcome.name != _META for outcome in self.outcomes)

    @property
    def is_good(self) -> bool:
        """Tell whether at least one check ran and none failed."""
        return self.ran > 0 and self.count("failed") == 0

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        counts = {state: self.count(state) for state in ("passed", "failed", "skipped", "expected failure")}
        return {"title": self.title, "ran": self.ran, **counts, "checks": [asdict(o) for o in self.outcomes]}

    def __str__(self) -> str:
        idle = "; a suite that runs no check fails" if self.ran == 0 else ""
        return (
            f"{self.title}: {self.ran} ran, {self.count('failed')} failed, {self.count('skipped')} skipped, "
            f"{self.count('expected failure')} expected to fail{idle}"
        )


class Suite:
    """Checks of one method; a subclass for a kind brings them, a subclass for a method names the method.

    Args:
        method: The class under test.
        options: Options to make it with, as a recipe would give them; its defaults where empty.
        expected_failures: {name of a check: reason}. Such a check must fail; those that a method's class
            declares itself, in an attribute of the same name, count as well.
    """

    method: ClassVar[Any]
    options: ClassVar[Mapping[str, Any]] = {}
    expected_failures: ClassVar[Mapping[str, str]] = {}
    kind: ClassVar[str] = ""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not hasattr(cls, "method"):
            return
        names, expected = cls.names(), cls._expected()
        for name in expected:
            if name not in names or name == _META:
                choices = [known for known in names if known != _META]
                raise TypeError(
                    f"{cls.__name__}: expected_failures: {name!r} is no check; {nearest(name, choices)}"
                )
        for name in names:
            check = getattr(cls, f"test_{name}")
            bare = getattr(check, "learnforge_bare", check)  # a base class may have expected a failure
            wanted = _as_expected_failure(bare, expected[name]) if name in expected else bare
            if wanted is not check:
                setattr(cls, f"test_{name}", wanted)

    @classmethod
    def of(cls, method: Any, options: Mapping[str, Any] | None = None, **further: Any) -> type[Suite]:
        """Make the suite of a method, for callers that have no class of their own.

        Args:
            method: What to check; a class, for most kinds.
            options: Options to make it with.
            further: Further attributes of the suite.
        """
        given = {"options": dict(options or {}), **further}
        made = {"method": method, "made_from": cls, "made_with": given, "__module__": __name__}
        return type(f"{getattr(method, '__name__', method)}{cls.__name__}", (cls,), made | given)

    @classmethod
    def fitting(cls, method: Any) -> type[Suite]:
        """Return the suite for a method, where a kind has methods of several sorts; this one by default."""
        return cls

    @classmethod
    def names(cls) -> list[str]:
        """List the names of all checks, those of the base classes first."""
        found: dict[str, None] = {}
        for base in reversed(cls.__mro__):
            found |= {name.removeprefix("test_"): None for name in vars(base) if name.startswith("test_")}
        return list(found)

    @classmethod
    def checks(cls) -> list[Check]:
        """List all checks as they apply to the method."""
        suite, expected = cls(), cls._expected()
        return [
            Check(name, inspect.unwrap(function), _skip_reason(function, suite), expected.get(name, ""))
            for name in cls.names()
            if (function := getattr(cls, f"test_{name}")) is not None
        ]

    @classmethod
    def run(cls, only: Collection[str] | None = None) -> Iterator[Outcome]:
        """Run the checks and yield how each went; see `Report`.

        Args:
            only: Names of the checks to run; all of them by default.
        """
        for check in cls.checks():
            if only is None or check.name in only:
                yield _run(check, cls())

    def make(self, **options: Any) -> Any:
        """Make the method with the suite's options, some of them changed.

        Raises:
            RecipeError: An option is wrong.
        """
        return build(self.method, {**self.options, **options}, type(self).__name__, Plugins().resolve)

    def test_suite_checks_something(self) -> None:
        """At least one further check applies: a suite that runs none proves nothing."""
        others = [check for check in self.checks() if check.name != _META]
        require(any(not check.skip for check in others), f"all {len(others)} further checks are skipped")

    @classmethod
    def _expected(cls) -> dict[str, str]:
        return {**getattr(cls.method, "expected_failures", {}), **cls.expected_failures}


def _skip_reason(function: Any, suite: Suite) -> str:
    """Return the reason of the first condition that does not hold, through all layers of decoration."""
    layer = function
    while layer is not None:
        condition, reason = getattr(layer, "learnforge_needs", (None, ""))
        if condition is not None and not condition(suite):
            return str(reason)
        layer = getattr(layer, "__wrapped__", None)
    return ""


def _run(check: Check, suite: Suite) -> Outcome:
    if check.skip:
        return Outcome(check.name, "skipped", check.skip)
    try:
        check.function(suite)
    except Exception as error:
        if check.expected:
            return Outcome(check.name, "expected failure", check.expected)
        return Outcome(check.name, "failed", _words(error))
    if check.expected:
        return Outcome(check.name, "failed", _unexpected(check.expected))
    return Outcome(check.name, "passed")


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"


def _unexpected(reason: str) -> str:
    return f"passes, though it is declared to fail ({reason}); take it out of expected_failures"


def _as_expected_failure(check: Callable[..., None], reason: str) -> Callable[..., None]:
    """Wrap a check for pytest: failing is reported as xfail, passing is a failure."""

    @functools.wraps(check)
    def checked(self: Suite) -> None:
        try:
            check(self)
        except unittest.SkipTest:
            raise
        except Exception:
            _xfail(reason)
        raise AssertionError(_unexpected(reason))

    checked.learnforge_bare = check  # type: ignore[attr-defined]
    return checked


def _xfail(reason: str) -> NoReturn:
    pytest = sys.modules["pytest"]  # only pytest calls the wrapped checks
    pytest.xfail(reason)
    raise AssertionError("unreachable")
