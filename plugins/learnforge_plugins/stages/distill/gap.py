"""The gap between teacher and student: how wide it is, and the assistants that bridge it.

A student learns less from a teacher far above its capacity than from one in between; a chain of intermediate
networks, each taught by the one above, closes the gap.

Reference:
    Mirzadeh, Farajtabar, Li, Levine, Matsukawa & Ghasemzadeh, Improved knowledge distillation via teacher
    assistant, 2020. arXiv:1902.03393
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch

from learnforge.errors import StageError
from learnforge.kinds.model import Model
from learnforge.plugins.registry import Plugins
from learnforge.spec import NetworkSpec, TaskInfo
from learnforge_kit.networks.layers import count_parameters

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


def choose_assistants(
    count: int, teacher: int, student: int, specs: Sequence[NetworkSpec], task: TaskInfo, plugins: Plugins
) -> list[Model]:
    """Choose models in even steps of the logarithm of parameters between teacher and student, largest first.

    Args:
        count: How many.
        teacher: Parameters of the teacher.
        student: Parameters of the student.
        specs: Networks whose families are looked through, the preferred one first.
        task: What the models are built for.
        plugins: Where models are looked up.

    Raises:
        StageError: The families have too few sizes in between.
    """
    if not count:
        return []
    for spec in specs:
        sizes = {p: m for m in _family(spec, plugins) if student < (p := _size(m, task)) < teacher}
        chains = itertools.combinations(sorted(sizes, reverse=True), count)
        best = min(chains, key=lambda chain: _widest_step((teacher, *chain, student)), default=None)
        if best is not None:
            return [sizes[size] for size in best]
    names = ", ".join(str(dict(spec.table)) for spec in specs)
    raise StageError(
        f"there are not {count} sizes between the teacher's {teacher:,} and the student's {student:,} "
        f"parameters in the families of {names}; name the assistants yourself, "
        f"`assistant_models = [{{ use = … }}]`"
    )


def _widest_step(sizes: Sequence[int]) -> float:
    return max(above / below for above, below in itertools.pairwise(sizes))


def _family(spec: NetworkSpec, plugins: Plugins) -> Sequence[Model]:
    if spec.kind != "model":
        return ()
    found = plugins.resolve("model", spec.table, "model", [])
    return found.family() if isinstance(found, Model) else ()


def _size(model: Model, task: TaskInfo) -> int:
    with torch.device("meta"):
        return count_parameters(model.without_pretrained().build(task))
