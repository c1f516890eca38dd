"""Short campaigns against what is read: recipes, files that mean harm, plugins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.campaign import attempt_cases
from tests.campaigns.desk import MOST_MEBIBYTES, Outcome
from tests.campaigns.hostile import Hostile
from tests.campaigns.plugins import Plugins
from tests.campaigns.recipes import Recipes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"output": "Traceback (most recent call last):\n  …\nKeyError: 3"}, "a traceback: KeyError: 3"),
        ({"code": None}, "not done after 20 s"),
        ({"code": None, "mebibytes": MOST_MEBIBYTES + 1}, "MiB of memory"),
        ({"code": -11}, "ended by signal 11"),
        ({"output": " "}, "exit status 1 without a word"),
        ({"output": "\x1b[2J"}, "control characters"),
        ({"output": "a" * 60_000}, "60,000 characters"),
    ],
)
def test_what_no_command_may_do_is_found(changes: dict[str, object], words: str) -> None:
    """A campaign that could not fail would be worth nothing."""
    fields = {"words": ("run",), "code": 1, "output": "no", "seconds": 1.0, "mebibytes": 500.0, "limit": 20.0}
    assert Outcome(**fields).faults() == []  # type: ignore[arg-type]
    (fault,) = Outcome(**{**fields, **changes}).faults()  # type: ignore[arg-type]
    assert words in fault


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("campaign", "cases"), [(Recipes, 100), (Hostile, 6), (Plugins, 4)])
def test_what_is_read_does_no_harm(campaign: type, cases: int, tmp_path: Path) -> None:
    """No traceback, no hang, little memory, nothing executed, and every fault has its name."""
    assert attempt_cases(campaign, tmp_path, cases) == []
