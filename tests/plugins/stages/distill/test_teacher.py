"""The teacher: frozen, the same bits in any batch, averaged as asked."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learnforge import StageError, Task
from learnforge_kit import Train
from learnforge_kit.errors import PlaceError
from learnforge_plugins.stages.distill.cached_scores import describe_scores, probe_scores
from learnforge_plugins.stages.distill.teacher import Teacher, TeacherSettings
from learnforge_testing.toys import make_network


class Fixed(nn.Module):
    """Gives every image the same scores."""

    def __init__(self, *scores: float):
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores))

    def forward(self, images: Tensor) -> Tensor:
        return self.scores.expand(len(images), -1)


def _ask(manner: TeacherSettings, *networks: nn.Module) -> list[float]:
    found: list[float] = Teacher(networks, manner, 4)(torch.zeros(1, 1, 2, 2))[0].tolist()
    return found


def test_logits_are_averaged_by_hand() -> None:
    """Weights 1 and 3 count as 1/4 and 3/4; without weights each teacher counts the same."""
    one, other = Fixed(0.0, 4.0), Fixed(8.0, 0.0)
    assert _ask(TeacherSettings(), one, other) == [4.0, 2.0]
    assert _ask(TeacherSettings(weights=(1.0, 3.0)), one, other) == [6.0, 1.0]


def test_probabilities_are_averaged_by_hand() -> None:
    """(1/4, 3/4) and (1/2, 1/2) average to (3/8, 5/8), and with weights 1 and 3 to (7/16, 9/16)."""
    one, other = Fixed(0.0, math.log(3.0)), Fixed(0.0, 0.0)
    found = _ask(TeacherSettings("probabilities"), one, other)
    assert torch.tensor(found).exp().tolist() == pytest.approx([3 / 8, 5 / 8])
    found = _ask(TeacherSettings("probabilities", (1.0, 3.0)), one, other)
    assert torch.tensor(found).exp().tolist() == pytest.approx([7 / 16, 9 / 16])


def test_one_teacher_is_passed_on_as_it_is(task: Task) -> None:
    """A single teacher's scores are its own, bit for bit, whatever the ensemble would do."""
    network = make_network(task.info).eval()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = images.contiguous(memory_format=torch.channels_last)
    found = Teacher([network], TeacherSettings("probabilities"), 4)(images)
    assert torch.equal(found, network(images))


def test_it_is_frozen(task: Task) -> None:
    """In eval mode, without gradient, in its own memory layout; batch statistics do not move."""
    network = make_network(task.info).train()
    teacher = Teacher([network], TeacherSettings(), 4)
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network[0].weight.is_contiguous()  # type: ignore[index]
    scores = teacher(torch.randn(4, 1, 8, 8))
    assert not scores.requires_grad
    teacher.require_unchanged("Some")


def test_a_changed_teacher_is_refused(task: Task) -> None:
    """One bit of a batch statistic is enough."""
    network = make_network(task.info)
    teacher = Teacher([network], TeacherSettings(), 4)
    network[1].running_mean[0] += 1e-7  # type: ignore[index, union-attr, operator]
    with pytest.raises(StageError, match="the distiller Some changed its teacher"):
        teacher.require_unchanged("Some")


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_scores_do_not_depend_on_the_batch(task: Task, precision: Any) -> None:
    """An image has the same bits in a full batch, a short one, alone, and in any order."""
    teacher = Teacher([make_network(task.info, width=17)], TeacherSettings(precision=precision), 16)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = teacher(images)
    assert whole.dtype == torch.float32  # as a cache gives them back
    for count in (1, 3, 15):
        assert torch.equal(teacher(images[:count]), whole[:count])
    assert torch.equal(teacher(images.flip(0)), whole.flip(0))
    assert torch.equal(probe_scores(teacher, images, True), whole)


class Placed(Fixed):
    """Its scores depend on where in the batch an image stands."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 1e-6 * torch.arange(len(images))[:, None]


def test_scores_that_depend_on_the_place_are_found() -> None:
    """Such a teacher cannot be cached exactly; the error says what to do."""
    teacher = Teacher([Placed(1.0, 2.0)], TeacherSettings(), 4)
    with pytest.raises(PlaceError, match=r'depend on where in its batch an image stands.*cache = "off"'):
        probe_scores(teacher, torch.zeros(4, 1, 2, 2), True)
    assert probe_scores(teacher, torch.zeros(4, 1, 2, 2), False).shape == (4, 2)


def test_bfloat16_is_the_teachers_own(task: Task) -> None:
    """Its precision is what was asked for, also inside a student's autocast."""
    teacher = Teacher([make_network(task.info)], TeacherSettings(), 4)
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    alone = teacher(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(teacher(images), alone)
    rounded = Teacher([make_network(task.info)], TeacherSettings(precision="bf16"), 4)(images)
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert not torch.equal(rounded, alone)


def _keys(task: Task, network: nn.Module, manner: TeacherSettings | None = None, **train: Any) -> str:
    teacher = Teacher([network], manner or TeacherSettings(), 4)
    settings = Train(**{"batch_size": 20, **train})
    probe = teacher(torch.ones(4, 1, 8, 8))
    return repr(describe_scores(teacher, task, settings, probe))


def test_the_key_of_a_cache_is_all_that_scores_depend_on(task: Task) -> None:
    """Equal for equal teachers; another weight, statistic, layer, precision, view or batch is another key."""
    same = _keys(task, make_network(task.info))
    assert _keys(task, make_network(task.info)) == same
    assert _keys(task, make_network(task.info), crop=0, epochs=3, learning_rate=0.5) == same
    nudged, moved, other = make_network(task.info), make_network(task.info), make_network(task.info)
    nudged[0].weight.data[0, 0, 0, 0] += 1e-6  # type: ignore[index, operator, union-attr]
    moved[1].running_var[0] += 1e-6  # type: ignore[index, operator, union-attr]
    other[2] = nn.LeakyReLU(0.2)  # type: ignore[operator]
    hidden = make_network(task.info)
    hidden.register_forward_hook(lambda module, inputs, output: 2 * output)  # in no weight and no name
    changed = [_keys(task, network) for network in (nudged, moved, other, hidden)]
    changed += [_keys(task, make_network(task.info), TeacherSettings(precision="bf16"))]
    changed += [_keys(task, make_network(task.info), **{key: 1}) for key in ("crop", "flip", "batch_size")]
    assert len({same, *changed}) == len(changed) + 1
