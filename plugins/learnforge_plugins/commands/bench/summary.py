"""Numbers over seeds: means, deviations, and gains over a baseline of the same seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of nothing."""
    return statistics.fmean(values) if values else float("nan")


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample, 0 of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def judged(results: Sequence[Any]) -> list[float]:
    """Return what results are compared by: test accuracies where they were asked for."""
    return [result.validation if result.test is None else result.test for result in results]


def paired_gain(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float]:
    """Return the mean difference to the baseline of the same seed, and its standard error."""
    gains = [value - other for value, other in zip(values, baseline, strict=True)]
    return mean(gains), deviation(gains) / math.sqrt(len(gains))


def spell_spread(values: Sequence[float], scale: float = 100, digits: int = 2) -> str:
    """Spell mean and standard deviation, of shares in per cent."""
    return f"{scale * mean(values):.{digits}f} ± {scale * deviation(values):.{digits}f}"


def spell_gain(values: Sequence[float], baseline: Sequence[float], scale: float = 100) -> tuple[str, str]:
    """Spell the gain over a baseline with its standard error, and how many errors it is."""
    gain, error = paired_gain(values, baseline)
    return f"{scale * gain:+.2f} ± {scale * error:.2f}", f"{gain / error:.1f}" if error else ""
