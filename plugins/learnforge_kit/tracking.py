"""What trackers show of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among metrics, {name: value}, nested ones as `outer/inner`; lists and text are left
    out, and so are the epoch's own number and how many there are.
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = float(value)
    return {name: value for name, value in found.items() if name not in ("epoch", "epochs")}
