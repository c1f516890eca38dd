"""Logit distillation: numbers by hand and the properties that Hinton et al. give."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from learnforge import Batch, Outputs, Plugins, RecipeError
from learnforge.options.structure import build


def _batch(labels: list[int]) -> Batch:
    count = len(labels)
    indices = torch.arange(count)
    return Batch(torch.zeros(count, 1, 2, 2), torch.tensor(labels), indices, torch.zeros_like(indices))


@pytest.fixture
def loss(plugins: Plugins) -> Any:
    """Compute the loss of class scores under options."""

    def compute(student: Tensor, teacher: Tensor, labels: list[int], **options: Any) -> Tensor:
        method = build(plugins.load("distiller", "kd"), options, "test")
        return method.loss(Outputs(student), Outputs(teacher), _batch(labels))  # type: ignore[no-any-return]

    return compute


def test_loss_worked_by_hand(loss: Any) -> None:
    """At T = 2 the scores (0, 2 ln 3) soften to (1/4, 3/4) against the student's (1/2, 1/2)."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[0.0, 2 * math.log(3.0)]])
    hard = math.log(2.0)
    soft = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    expected = 0.7 * hard + 0.3 * 4 * soft
    assert loss(student, teacher, [0], temperature=2.0, alpha=0.3).item() == pytest.approx(expected)


def test_batch_is_averaged(loss: Any) -> None:
    """The loss of a batch is the mean over its images, the soft part included."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 4, generator=generator) for _ in range(2))
    alone = [loss(student[i : i + 1], teacher[i : i + 1], [i]) for i in range(3)]
    assert loss(student, teacher, [0, 1, 2]).item() == pytest.approx(torch.stack(alone).mean().item())


def test_soft_gradient_in_the_limit_of_high_temperature(loss: Any) -> None:
    """For T → ∞ the soft gradient is that of matching centred scores, (s - t) / N (section 2, equation 4)."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(1, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, teacher, [0], temperature=1e4, alpha=1.0), student)
    difference = student.detach() - teacher
    expected = (difference - difference.mean()) / 5
    assert torch.allclose(gradient, expected, atol=1e-4)


def test_soft_gradient_keeps_its_size_over_temperatures(loss: Any) -> None:
    """From T = 20 to T = 2000 the soft gradient changes by a few percent, where without T² it would fall
    10,000-fold.
    """
    generator = torch.Generator().manual_seed(2)
    start, teacher = (torch.randn(8, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    sizes = []
    for temperature in (20.0, 2000.0):
        student = start.clone().requires_grad_()
        value = loss(student, teacher, [0] * 8, temperature=temperature, alpha=1.0)
        sizes.append(torch.autograd.grad(value, student)[0].norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_student_equal_to_teacher_has_no_soft_loss(loss: Any, temperature: float) -> None:
    """A student with the teacher's scores, also shifted by a constant, has neither soft loss nor soft
    gradient.
    """
    teacher = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    student = (teacher + 5).requires_grad_()
    value = loss(student, teacher, [0, 1, 2, 0], temperature=temperature, alpha=1.0)
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(0.0, abs=1e-12)
    assert gradient.abs().max().item() == pytest.approx(0.0, abs=1e-12)


def test_soft_loss_is_positive_and_not_symmetric(loss: Any) -> None:
    """The divergence is that of the student from the teacher, which is not that of the teacher from the
    student.
    """
    a, b = torch.tensor([[0.0, 1.0, 4.0]]), torch.tensor([[2.0, 0.0, 0.5]])
    forward, backward = (loss(x, y, [0], temperature=1.0, alpha=1.0).item() for x, y in ((a, b), (b, a)))
    p, q = F.softmax(b, 1), F.softmax(a, 1)
    assert forward == pytest.approx((p * (p / q).log()).sum().item(), rel=1e-5)
    assert forward > 0
    assert forward != pytest.approx(backward, rel=0.01)


def test_alpha_zero_is_cross_entropy(loss: Any) -> None:
    """With alpha = 0 the teacher counts for nothing."""
    generator = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(6, 3, generator=generator) for _ in range(2))
    labels = [0, 1, 2, 2, 1, 0]
    expected = F.cross_entropy(student, torch.tensor(labels))
    assert loss(student, teacher, labels, alpha=0.0).item() == pytest.approx(expected.item())


def test_alpha_one_needs_no_labels(loss: Any) -> None:
    """With alpha = 1 the labels count for nothing."""
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(2, 3, generator=generator) for _ in range(2))
    first, second = (loss(student, teacher, labels, alpha=1.0) for labels in ([0, 1], [2, 2]))
    assert first.item() == second.item()


def test_extreme_scores_stay_finite(loss: Any) -> None:
    """Scores of ±10,000 give a finite loss and gradient."""
    student = torch.tensor([[1e4, -1e4]], requires_grad=True)
    value = loss(student, -student.detach(), [1])
    (gradient,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, r"temperature: 'temperature' must be > 0\.0: 0\.0"),
        ({"alpha": 1.5}, r"alpha: 'alpha' must be <= 1\.0: 1\.5"),
        ({"alpha": -0.1}, r"alpha: 'alpha' must be >= 0\.0: -0\.1"),
        ({"temprature": 2.0}, r"temprature: unknown option; did you mean 'temperature'\?"),
    ],
)
def test_wrong_options_are_refused(plugins: Plugins, options: dict[str, Any], message: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=message):
        build(plugins.load("distiller", "kd"), options, "test")
