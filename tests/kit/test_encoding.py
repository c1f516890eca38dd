"""Designs as vectors: what a distance counts."""

from __future__ import annotations

import numpy as np
import pytest

from learnforge_kit import encode
from learnforge_kit.search.encoding import flatten


def distance(one: dict[str, object], other: dict[str, object], *others: dict[str, object]) -> float:
    vectors = encode([one, other, *others])
    return float(((vectors[0] - vectors[1]) ** 2).sum())


def test_leaves_have_paths() -> None:
    """Tables and lists are followed; a leaf is named by the way to it."""
    assert flatten({"a": [{"b": 1}, "x"], "c": {"d": None}}) == {"a.0.b": 1, "a.1": "x", "c.d": None}


@pytest.mark.parametrize(
    ("one", "other", "squared"),
    [
        ({"op": "a"}, {"op": "a"}, 0.0),
        ({"op": "a"}, {"op": "b"}, 1.0),
        ({"op": "a", "x": "c"}, {"op": "b", "x": "d"}, 2.0),
        ({"op": "a"}, {}, 1.0),  # a path that only one has
        ({"n": 1.0}, {}, 1.0),
        ({"n": 1}, {"n": 5}, 1.0),  # the ends of what was found
        ({"on": True}, {"on": False}, 1.0),
        ({"on": True}, {"on": 1}, 1.0),  # a truth value is no number
        ({"v": None}, {"v": 3}, 1.0),
    ],
)
def test_differences_by_hand(one: dict[str, object], other: dict[str, object], squared: float) -> None:
    """A category, and a path that one lacks, count 1; numbers the square of their distance in rank."""
    assert distance(one, other) == pytest.approx(squared)


def test_numbers_count_by_rank() -> None:
    """A quarter of the way among five values is 1/16, whatever the scale."""
    rest = [{"rate": 10.0**-k} for k in range(5)]
    assert distance(rest[0], rest[1], *rest[2:]) == pytest.approx(1 / 16)


def test_nothing_has_no_columns() -> None:
    """Designs without choices are all alike."""
    assert encode([{}, {}]).shape == (2, 0)
    assert np.isfinite(encode([{"n": 3}])).all()
