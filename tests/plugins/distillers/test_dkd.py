"""Decoupled distillation: both parts by hand, and what the paper shows of them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

SOFT = {"labels": 0.0, "warmup": 0.0, "temperature": 1.0}


def test_true_class_against_the_others_by_hand(compute: Any) -> None:
    """The teacher's (1/2, 1/4, 1/4) against a level student: binary (1/2, 1/2) against (1/3, 2/3)."""
    teacher = torch.tensor([[math.log(2.0), 0.0, 0.0]])
    found = compute("dkd", torch.zeros(1, 3), teacher, [0], alpha=3.0, beta=8.0, **SOFT)
    assert float(found) == pytest.approx(3 * (0.5 * math.log(1.5) + 0.5 * math.log(0.75)), abs=1e-6)


def test_others_among_themselves_by_hand(compute: Any) -> None:
    """Beside the true class the teacher has (3/4, 1/4), the student (1/2, 1/2)."""
    teacher = torch.tensor([[0.7, math.log(3.0), 0.0]])
    found = compute("dkd", torch.zeros(1, 3), teacher, [0], alpha=0.0, beta=2.0, **SOFT)
    assert float(found) == pytest.approx(2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), abs=1e-6)


def test_temperature_softens_and_scales(compute: Any) -> None:
    """T times the scores at temperature T give T² times the loss."""
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    cold = compute("dkd", student, teacher, [0, 1, 2, 3], **SOFT)
    warm = compute("dkd", 3 * student, 3 * teacher, [0, 1, 2, 3], **{**SOFT, "temperature": 3.0})
    assert float(warm) == pytest.approx(9 * float(cold), rel=1e-5)


def test_plain_distillation_is_a_special_case(compute: Any) -> None:
    """KD = TCKD + (1 - p_y) NCKD (equation 6), image by image."""
    student, teacher = torch.randn(2, 1, 6, generator=torch.Generator().manual_seed(1))
    beta = float(1 - teacher.softmax(1)[0, 2])
    kd = compute("kd", student, teacher, [2], alpha=1.0, temperature=1.0)
    found = compute("dkd", student, teacher, [2], alpha=1.0, beta=beta, **SOFT)
    assert float(found) == pytest.approx(float(kd), rel=1e-5)


@pytest.mark.parametrize("sureness", [0.0, 20.0, 2000.0])
def test_a_sure_teacher_still_teaches_of_the_others(compute: Any, sureness: float) -> None:
    """What the teacher says of the other classes does not fade as it gets sure of the true one."""
    student, teacher = torch.zeros(1, 3), torch.tensor([[sureness, math.log(3.0), 0.0]])
    found = compute("dkd", student, teacher, [0], alpha=0.0, beta=1.0, **SOFT)
    assert float(found) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-4)


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.0), (0.1, 0.5), (0.2, 1.0), (0.9, 1.0)])
def test_the_teacher_is_let_in_slowly(compute: Any, progress: float, share: float) -> None:
    """Over `warmup` of the training the teacher's weight rises evenly from nothing; the labels' does not."""
    student, teacher = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    options = {"labels": 0.0, "temperature": 1.0}
    whole = compute("dkd", student, teacher, [0, 1, 2], 0.0, warmup=0.0, **options)
    found = compute("dkd", student, teacher, [0, 1, 2], progress, warmup=0.2, **options)
    assert float(found) == pytest.approx(share * float(whole), rel=1e-5)
    hard = compute("dkd", student, teacher, [0, 1, 2], 0.0, warmup=0.2, labels=2.0)
    assert float(hard) == pytest.approx(
        2 * float(torch.nn.functional.cross_entropy(student, torch.arange(3)))
    )
