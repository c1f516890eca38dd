"""Designs as vectors, for searchers that learn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from learnforge.kinds.space import Choice

Array = npt.NDArray[np.float64]


Leaves = dict[str, "Choice"]


def encode(designs: Sequence[Mapping[str, Any]]) -> Array:
    """Return designs as vectors whose squared distance counts what differs: float [design, column].

    A design is flattened to {path: value}. A path that holds anything but numbers has one column for each of
    its values: differing there adds 1 to the squared distance, and so does a path that only one of two
    designs has. A path of numbers adds the square of how far apart their places are among the numbers found
    there, from 0 to 1, so that a range in the logarithm needs no mention.
    """
    rows = [flatten(design) for design in designs]
    paths: dict[str, None] = {}
    for row in rows:
        paths.update(dict.fromkeys(row))
    columns = [_columns(path, rows) for path in paths]
    return np.hstack(columns) if columns else np.zeros((len(rows), 0))


def flatten(design: Mapping[str, Any]) -> Leaves:
    """Return a design's leaves, `{"stages.0.width": 16, …}`."""
    leaves: Leaves = {}
    _gather(design, "", leaves)
    return leaves


def _gather(part: Any, path: str, leaves: Leaves) -> None:
    if isinstance(part, dict):
        for key, value in part.items():
            _gather(value, f"{path}.{key}" if path else key, leaves)
    elif isinstance(part, (list, tuple)):
        for place, value in enumerate(part):
            _gather(value, f"{path}.{place}", leaves)
    else:
        leaves[path] = part


def _columns(path: str, rows: Sequence[Leaves]) -> Array:
    """Encode one path: float [design, column]."""
    values = [row.get(path, _ABSENT) for row in rows]
    kinds = set(map(type, values)) - {_Absent}
    if kinds <= {int, float}:
        return _numbers(values)
    places: dict[Any, int] = {}
    found = [places.setdefault((type(value), value), len(places)) for value in values]
    columns = np.zeros((len(rows), len(places)))
    columns[np.arange(len(rows)), found] = np.sqrt(0.5)  # two columns differ where a category does
    return columns


def _numbers(values: Sequence[Any]) -> Array:
    present = np.array([value is not _ABSENT for value in values])
    numbers = np.array([value for value in values if value is not _ABSENT], dtype=np.float64)
    distinct, inverse = np.unique(numbers, return_inverse=True)
    columns = np.zeros((len(values), 2))
    columns[present, 0] = inverse / max(1, len(distinct) - 1)
    columns[~present, 1] = 1.0
    return columns


class _Absent:
    """Stands for the value of a path that a design does not have."""


_ABSENT: Any = _Absent()
