"""The gap between teacher and student: how wide it is, and how many assistants bridge it.

A student learns less from a teacher far above its capacity than from one in between; a chain of intermediate
networks, each taught by the one above, closes the gap.

Reference:
    Mirzadeh, Farajtabar, Li, Levine, Matsukawa & Ghasemzadeh, Improved knowledge distillation via teacher
    assistant, 2020. arXiv:1902.03393
"""

from __future__ import annotations

import math
from typing import Literal

WIDE_GAP = 20.0
"""A teacher with more than so many times the student's parameters is warned of; the paper's own example,
ResNet-110 over ResNet-8, has 22."""

MOST_ASSISTANTS = 2


def describe_gap(ratio: float) -> str:
    """Return the words of the warning about a capacity ratio, or ""."""
    if ratio <= WIDE_GAP:
        return ""
    return (
        f"the teacher has {ratio:.0f} times as many parameters as what it teaches; above {WIDE_GAP:.0f} a "
        'gap may spoil distillation. Try `assistants = "auto"`, or a smaller teacher'
    )


def count_assistants(wanted: int | Literal["auto"], ratio: float) -> int:
    """Return how many assistants there shall be.

    Args:
        wanted: A number, or `auto` for as few as leave no wide gap, two at most.
        ratio: Parameters of the teacher over those of the student.
    """
    if wanted != "auto":
        return wanted
    if ratio <= WIDE_GAP:
        return 0
    return min(MOST_ASSISTANTS, math.ceil(math.log(ratio) / math.log(WIDE_GAP)) - 1)
