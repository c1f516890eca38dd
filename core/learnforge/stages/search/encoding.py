"""Designs as vectors, for searchers that learn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from learnforge.space import Choice, Design

Array = npt.NDArray[np.float64]
_ABSENT = "(absent)"


class Encoding:
    """Turns designs into vectors whose squared distance counts what differs.

    A design is flattened to {path: value}. A category has one column for each of its values, and differing
    in one adds 1 to the squared distance; so does a path that only one of two designs has. A number has
    one column: its place among the numbers seen there, from 0 to 1, so that ranges in the logarithm need no
    mention.

    Args:
        designs: What the columns are learnt from; values that come later are as unlike as any other.
    """

    def __init__(self, designs: Sequence[Design]):
        seen: dict[str, dict[Choice, None]] = {}
        flat = [flatten(design) for design in designs]
        for design in flat:
            for path, value in design.items():
                seen.setdefault(path, {})[_key(value)] = None
        self._numbers: dict[str, Array] = {}
        self._categories: dict[str, dict[Choice, int]] = {}
        self._offset: dict[str, int] = {}
        self.columns = 0
        for path, values in seen.items():
            self._offset[path] = self.columns
            if all(isinstance(value, (int, float)) for value in values):
                self._numbers[path] = np.array(sorted(values), dtype=np.float64)  # type: ignore[arg-type]
                self.columns += 2
            else:
                self._categories[path] = {value: i for i, value in enumerate([*values, _ABSENT])}
                self.columns += len(values) + 1

    def __call__(self, designs: Sequence[Design]) -> Array:
        """Return float [design, column]."""
        rows = [flatten(design) for design in designs]
        encoded = np.zeros((len(rows), self.columns))
        half = np.sqrt(0.5)  # two columns differ where a category does
        for path, categories in self._categories.items():
            places = [categories.get(_key(row.get(path, _ABSENT)), -1) for row in rows]
            known = np.array(places) >= 0
            encoded[known, self._offset[path] + np.array(places)[known]] = half
        for path, values in self._numbers.items():
            column = self._offset[path]
            present = np.array([path in row for row in rows])
            numbers = np.array([row.get(path, values[0]) for row in rows], dtype=np.float64)
            places = np.linspace(0.0, 1.0, len(values)) if len(values) > 1 else np.zeros(1)
            encoded[present, column] = np.interp(numbers, values, places)[present]
            encoded[~present, column + 1] = 1.0
        return encoded


def flatten(design: Any, path: str = "") -> dict[str, Choice]:
    """Return a design's leaves, `{"stages.0.width": 16, …}`."""
    if isinstance(design, Mapping):
        items = design.items()
    elif isinstance(design, (list, tuple)):
        items = enumerate(design)  # type: ignore[assignment]
    else:
        return {path: design}
    leaves: dict[str, Choice] = {}
    for key, value in items:
        leaves |= flatten(value, f"{path}.{key}" if path else str(key))
    return leaves


def _key(value: Choice) -> Choice:
    """Keep truth values apart from the numbers 0 and 1, which they equal."""
    return str(value) if isinstance(value, bool) else value
