"""How much of a suite a broken method is held to: on each push the checks that must fail, in the slow
tier all.
"""

from __future__ import annotations

from collections.abc import Collection

import pytest

from learnforge_testing.suite import Suite

BREADTHS = pytest.mark.parametrize("breadth", ["meant", pytest.param("all", marks=pytest.mark.slow)])
"""`meant` runs the checks that a fault is to show in, `all` every check: it may show in no other."""


def failed_checks(suite: type[Suite], meant: Collection[str], breadth: str) -> dict[str, str]:
    """Return {name: words} of the checks that fail; of a sound method, for
    which none is meant, all are run.
    """
    only = meant if breadth == "meant" and meant else None
    return {outcome.name: outcome.words for outcome in suite.run(only) if outcome.state == "failed"}
