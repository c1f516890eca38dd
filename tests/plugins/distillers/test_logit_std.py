"""Logit standardisation: a loss by hand, and freedom of shift and scale."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch


def test_loss_worked_by_hand(compute: Any) -> None:
    """Two scores standardise to ±1/√2; opposite ones are (1 - 2p) √2 apart, with p = 1 / (1 + e^√2)."""
    root = math.sqrt(2.0)
    p = 1 / (1 + math.exp(root))
    student, teacher = torch.tensor([[5.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    found = compute("logit-std", student, teacher, [0], temperature=1.0, weight=3.0, labels=0.0)
    assert float(found) == pytest.approx(3 * (1 - 2 * p) * root, abs=1e-5)


def test_scores_may_be_shifted_and_scaled(compute: Any) -> None:
    """A student with other sizes of scores in the same proportions loses nothing (section 3.3)."""
    teacher = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    found = compute("logit-std", 7 * teacher - 3, teacher, [0, 1, 2, 3], labels=0.0)
    assert float(found) == pytest.approx(0.0, abs=1e-5)
    assert float(compute("logit-std", -teacher, teacher, [0, 1, 2, 3], labels=0.0)) > 1.0


def test_temperature_scales_the_loss(compute: Any) -> None:
    """At a high T the loss tends to half the squared distance of the standardised scores over the classes."""
    student, teacher = torch.tensor([[5.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    found = compute("logit-std", student, teacher, [0], temperature=1000.0, weight=1.0, labels=0.0)
    assert float(found) == pytest.approx(0.5 * (2 * 2) / 2, rel=1e-2)


def test_labels_count_by_their_weight(compute: Any) -> None:
    """With the teacher met, the cross-entropy remains, by its weight."""
    scores = torch.tensor([[0.0, 0.0]])
    assert float(compute("logit-std", scores, scores, [1], labels=2.0)) == pytest.approx(2 * math.log(2.0))
