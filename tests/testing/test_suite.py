"""A suite counts what it ran, skips by declaration, holds methods to what they declare, and is never idle."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch
from attrs import field, frozen
from attrs.validators import ge

from learnforge_testing.elsewhere import digest, digest_elsewhere
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import Outcome, Report, Suite, needs, require


@frozen
class Adder:
    """Adds.

    Reference:
        https://example.org/adding

    Args:
        amount: What to add, from 0.
    """

    amount: int = field(default=1, validator=ge(0))

    is_exact = False


class AdderSuite(Suite):
    """A suite of three checks."""

    def test_adds(self) -> None:
        require(self.make().amount == 1, f"amount must be 1, is {self.make().amount}")

    @needs(lambda suite: suite.method.is_exact, "the method does not claim to be exact")
    def test_is_exact(self) -> None:
        raise AssertionError("never runs")

    def test_multiplies(self) -> None:
        raise NotImplementedError("no product")


def states(suite: type[Suite]) -> dict[str, str]:
    return {outcome.name: outcome.state for outcome in suite.run()}


def test_checks_run_in_order_and_are_counted() -> None:
    """Base checks come first; wrong, skipped and good ones are told apart, and the counts add up."""
    outcomes = tuple(AdderSuite.of(Adder).run())
    assert [o.name for o in outcomes] == ["suite_checks_something", "adds", "is_exact", "multiplies"]
    assert [o.state for o in outcomes] == ["passed", "passed", "skipped", "failed"]
    assert outcomes[2].words == "the method does not claim to be exact"
    assert outcomes[3].words == "NotImplementedError: no product"
    report = Report("adder", outcomes)
    assert (report.ran, report.is_good) == (2, False)
    assert str(report) == "adder: 2 ran, 1 failed, 1 skipped, 0 expected to fail"


def test_options_reach_the_method() -> None:
    """A suite makes its method with the given options, and a failed requirement is told in its own words."""
    outcome = next(o for o in AdderSuite.of(Adder, {"amount": 2}).run() if o.name == "adds")
    assert outcome == Outcome("adds", "failed", "amount must be 1, is 2")


def test_expected_failures_must_fail() -> None:
    """A declared failure is no failure, wherever it is declared; one that passes is."""

    class Declared(AdderSuite):
        method = Adder
        expected_failures = {"multiplies": "has no product"}

    assert states(Declared)["multiplies"] == "expected failure"

    class Honest(Adder):
        expected_failures = {"multiplies": "has no product", "adds": "so it was once"}

    found = {o.name: o for o in AdderSuite.of(Honest).run()}
    assert found["multiplies"].state == "expected failure"
    assert found["adds"].state == "failed"
    assert "passes, though it is declared to fail (so it was once)" in found["adds"].words


def test_unknown_expected_failure_gets_the_nearest() -> None:
    """A check that does not exist cannot be expected to fail."""
    with pytest.raises(TypeError, match="'multiplys' is no check; did you mean 'multiplies'"):
        type("Wrong", (AdderSuite,), {"method": Adder, "expected_failures": {"multiplys": "typo"}})


def test_expected_failures_of_a_base_class_can_be_taken_back() -> None:
    """A suite derived from one that expects a failure is held to its own declaration, under pytest too."""

    class Declared(AdderSuite):
        method = Adder
        expected_failures = {"adds": "so it was once"}

    class Healed(Declared):
        expected_failures = {}

    assert states(Healed)["adds"] == "passed"
    Healed().test_adds()
    with pytest.raises(TypeError, match="'suite_checks_something' is no check"):
        type("Cheat", (AdderSuite,), {"method": Adder, "expected_failures": {"suite_checks_something": "no"}})


def test_suite_that_checks_nothing_fails() -> None:
    """Where every check is skipped, or there is none, the suite fails."""

    class Idle(Suite):
        @needs(lambda suite: False, "not today")
        def test_anything(self) -> None:
            raise AssertionError("never runs")

    for suite in (Idle, Suite):
        (outcome, *_) = suite.of(Adder).run()
        assert outcome.state == "failed"
        assert "further checks are skipped" in outcome.words
    assert not Report("nothing", ()).is_good
    assert "a suite that runs no check fails" in str(Report("nothing", (Outcome("a", "skipped"),)))


def test_pytest_sees_what_the_runner_sees(tmp_path: Path) -> None:
    """As a mixin the same suite passes, skips, fails and expects failures under pytest."""
    (tmp_path / "test_mine.py").write_text(
        textwrap.dedent(
            """
            from learnforge_testing.suite import Suite, needs

            class AnySuite(Suite):
                def test_good(self): pass
                def test_bad(self): raise AssertionError("bad")
                def test_odd(self): raise AssertionError("odd")
                def test_healed(self): pass
                @needs(lambda suite: False, "not here")
                def test_skipped(self): pass

            class TestMine(AnySuite):
                method = int
                expected_failures = {"odd": "known", "healed": "not any more"}
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "2 failed, 2 passed, 1 skipped, 1 xfailed" in done.stdout, done.stdout
    assert "XFAIL" in done.stdout
    assert "take it out of expected_failures" in done.stdout


# Results in another process


class ResultSuite(MethodSuite):
    """A suite whose result is what the method gives."""

    base = object

    def result(self) -> object:
        return self.make().give()


@frozen
class Steady:
    """Gives the same everywhere.

    Reference: https://example.org
    """

    def give(self) -> object:
        return {"a": torch.arange(3), "b": [1.5, "x", None]}


@frozen
class Unordered:
    """Gives the order of a set; of so many that two processes cannot agree by chance.

    Reference: https://example.org
    """

    def give(self) -> object:
        return list({f"item {number}" for number in range(100)})


@frozen
class Drawing:
    """Draws from torch's global generator.

    Reference: https://example.org
    """

    def give(self) -> object:
        return torch.rand(3)


@frozen
class Counting:
    """Remembers how often it was asked.

    Reference: https://example.org
    """

    asked = [0]

    def give(self) -> object:
        self.asked[0] += 1
        return self.asked[0]


@frozen
class Wordless:
    threshold: int = 1

    def give(self) -> object:
        return 0


@pytest.mark.parametrize(
    ("method", "broken"),
    [
        (Steady, []),
        (Unordered, ["result_is_the_same_in_another_process"]),
        (Drawing, ["random_state_is_untouched", "result_is_the_same_in_another_process"]),
        (Counting, ["random_state_is_untouched"]),
        (
            Wordless,
            ["docstring_describes_every_option", "docstring_cites_a_reference", "numbers_have_ranges"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_broken_methods_fail_the_check_meant_for_them(method: type, broken: list[str]) -> None:
    """Each fault shows in its check and in no other."""
    assert [o.name for o in ResultSuite.of(method).run() if o.state == "failed"] == broken


def test_digest_tells_types_shapes_and_values_apart() -> None:
    """Equal results have equal digests; another type, shape, value or key has another."""
    values = [
        torch.zeros(4), torch.zeros(2, 2), torch.zeros(4, dtype=torch.float64), torch.ones(4),
        {"a": 1}, {"b": 1}, [1, 2], [2, 1], 1, 1.5, "1", None,
    ]  # fmt: skip
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values)
    assert digests == [digest(value) for value in values]
    with pytest.raises(TypeError, match="a result must have an order"):
        digest({1, 2})


def test_method_inside_a_function_is_refused_by_name() -> None:
    """Another process cannot find a class that is defined in a function."""

    @frozen
    class Hidden(Steady):
        """Hidden."""

    with pytest.raises(ValueError, match="Hidden must be defined at the top of its module"):
        digest_elsewhere(ResultSuite.of(Hidden))


def test_the_other_process_ends_with_this_one() -> None:
    """Whatever ends the process that started it, the other one is not left behind."""
    script = (
        "import os\n"
        "from learnforge_testing.elsewhere import call_elsewhere\n"
        "if __name__ == '__main__':\n"
        "    print(call_elsewhere(os.getpid), flush=True)\n"
        "    os._exit(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    other = int(done.stdout)
    deadline = time.monotonic() + 30
    while _is_alive(other) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _is_alive(other)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
