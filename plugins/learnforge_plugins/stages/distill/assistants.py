"""Assistants between teacher and student, out of the families of their models."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from learnforge.errors import StageError
from learnforge.kinds.model import Model
from learnforge.plugins.registry import Plugins
from learnforge.spec import NetworkSpec, TaskInfo
from learnforge_kit.networks.layers import count_parameters


def choose_assistants(
    count: int, teacher: int, student: int, specs: Sequence[NetworkSpec], task: TaskInfo, plugins: Plugins
) -> list[Model]:
    """Choose models in even steps of the logarithm of parameters between teacher and student, largest first.

    Args:
        count: How many, from 1.
        teacher: Parameters of the teacher.
        student: Parameters of the student.
        specs: Networks whose families are looked through, the preferred one first.
        task: What the models are built for.
        plugins: Where models are looked up.

    Raises:
        StageError: The families have too few sizes in between.
    """
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
