"""Relations in place of values: correlations by hand, and what a student is free to do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

SOFT = {"labels": 0.0, "temperature": 1.0}
ONE, OTHER = [0.5, 0.3, 0.2], [0.2, 0.3, 0.5]


def test_between_classes_by_hand(compute: Any) -> None:
    """Centred, (5, -1, -4) / 30 and (-4, -1, 5) / 30 correlate by -39 / 42."""
    student, teacher = torch.tensor([OTHER]).log(), torch.tensor([ONE]).log()
    found = compute("dist", student, teacher, [0], beta=3.0, gamma=0.0, **SOFT)
    assert float(found) == pytest.approx(3 * (1 + 39 / 42), abs=1e-5)


def test_within_a_class_by_hand(compute: Any) -> None:
    """Two images the wrong way round: the classes correlate by -1, 0 (no spread) and -1."""
    student, teacher = torch.tensor([OTHER, ONE]).log(), torch.tensor([ONE, OTHER]).log()
    found = compute("dist", student, teacher, [0, 1], beta=0.0, gamma=3.0, **SOFT)
    assert float(found) == pytest.approx(3 * (1 + 2 / 3), abs=1e-5)


def test_probabilities_may_be_shifted_and_scaled(compute: Any) -> None:
    """A student half way between its teacher and the level distribution loses nothing (section 3.2)."""
    teacher = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    student = (0.5 * teacher.softmax(1) + 0.5 / 4).log()
    assert float(compute("dist", student, teacher, [0] * 5, **SOFT)) == pytest.approx(0.0, abs=1e-5)


def test_temperature_softens_and_scales(compute: Any) -> None:
    """tau times the scores at tau give tau² times the loss."""
    student, teacher = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0))
    cold = compute("dist", student, teacher, [0, 1, 2, 3], **SOFT)
    warm = compute("dist", 3 * student, 3 * teacher, [0, 1, 2, 3], labels=0.0, temperature=3.0)
    assert float(warm) == pytest.approx(9 * float(cold), rel=1e-4)


def test_labels_count_by_their_weight(compute: Any) -> None:
    """With the teacher's relations met, the cross-entropy remains, by its weight."""
    scores = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    hard = float(torch.nn.functional.cross_entropy(scores, torch.tensor([0, 1, 2])))
    assert float(compute("dist", scores, scores, [0, 1, 2], labels=2.0)) == pytest.approx(2 * hard, rel=1e-5)
