"""The gap between teacher and student, and the assistants that bridge it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from learnforge import Plugins, StageError
from learnforge.spec import NetworkSpec
from learnforge_kit.networks.layers import count_parameters
from learnforge_plugins.stages.distill.assistants import choose_assistants
from learnforge_plugins.stages.distill.gap import count_assistants, describe_gap
from learnforge_testing.network import make_info

INFO = make_info((3, 32, 32))


def _parameters(plugins: Plugins, name: str, **options: float) -> int:
    with torch.device("meta"):
        return count_parameters(plugins.load("model", name)(**options).build(INFO))


def test_wide_gaps_are_told_of() -> None:
    """Up to 20 times the parameters nothing is said; above, the ratio and a way out."""
    assert describe_gap(20.0) == ""
    assert "has 22 times as many parameters" in describe_gap(22.1)
    assert 'assistants = "auto"' in describe_gap(22.1)


@pytest.mark.parametrize(
    ("ratio", "count"), [(1.0, 0), (20.0, 0), (21.0, 1), (400.0, 1), (401.0, 2), (1e9, 2)]
)
def test_auto_takes_as_few_as_leave_no_wide_gap(ratio: float, count: int) -> None:
    """One assistant bridges up to 20² times, two what is above; a number asked for is taken as it is."""
    assert count_assistants("auto", ratio) == count
    assert count_assistants(2, ratio) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_sizes_are_in_even_steps(plugins: Plugins, count: int) -> None:
    """Assistants stand near the geometric steps between teacher and student, largest first."""
    teacher, student = _parameters(plugins, "resnet", depth=110), _parameters(plugins, "resnet", depth=8)
    spec = NetworkSpec("model", {"use": "resnet", "depth": 8})
    chosen = choose_assistants(count, teacher, student, [spec], INFO, plugins)
    sizes = [teacher, *(_parameters(plugins, "resnet", **vars_of(model)) for model in chosen), student]
    assert sizes == sorted(sizes, reverse=True)
    steps = [above / below for above, below in pairwise(sizes)]
    assert max(steps) < 2 * min(steps)


def vars_of(model: object) -> dict[str, float]:
    """Return the options that a family of ResNets varies."""
    return {name: getattr(model, name) for name in ("depth", "width")}


def test_the_teachers_family_serves_where_the_students_has_none(plugins: Plugins) -> None:
    """A student from a space is bridged by the teacher's kind of network."""
    specs = [
        NetworkSpec("space", {"use": "mlp"}, {}),
        NetworkSpec("model", {"use": "mobilenet", "width": 1.0}),
    ]
    teacher = _parameters(plugins, "mobilenet", width=1.0)
    (found,) = choose_assistants(1, teacher, 5_000, specs, INFO, plugins)
    assert type(found).__name__ == "MobileNet"


def test_too_few_sizes_are_refused(plugins: Plugins) -> None:
    """Where nothing fits in between, the error says what to name."""
    spec = NetworkSpec("model", {"use": "torchvision", "name": "resnet18"})
    with pytest.raises(StageError, match=r"not 2 sizes between the teacher's 500 and the student's 400"):
        choose_assistants(2, 500, 400, [spec], INFO, plugins)
