"""Relational distillation: distances and angles by hand, and freedom to move."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

LINE = torch.tensor([[0.0], [1.0], [3.0]])
TRIANGLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])


def _loss(compute: Any, own: Tensor, known: Tensor, **options: Any) -> float:
    level = torch.zeros(len(own), 2)
    taps = {"embedding": own}, {"embedding": known}
    settings = {"labels": 0.0, **options}
    return float(compute("rkd", level, level, [0] * len(own), taps=taps, **settings))


def test_distances_by_hand(compute: Any) -> None:
    """1, 2, 3 over their mean 2 miss the triangle's 1, 1, 1 by 1/2, 0, 1/2: Huber's 1/8 for 4 of 9 pairs."""
    assert _loss(compute, LINE, TRIANGLE, distance=9.0, angle=0.0) == pytest.approx(4 / 8, abs=1e-5)


def test_angles_by_hand(compute: Any) -> None:
    """Cosines 1, -1, 1 on the line against 1/2 thrice: Huber's 1/8, 1, 1/8, each twice among 27 triplets."""
    assert _loss(compute, LINE, TRIANGLE, distance=0.0, angle=27.0) == pytest.approx(2 * 1.25, abs=1e-5)


def test_moving_turning_and_scaling_do_not_matter(compute: Any) -> None:
    """A student that has the teacher's figure elsewhere, turned and in another size, loses nothing."""
    known = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))).Q
    assert _loss(compute, 5 * known @ turn + 3, known) == pytest.approx(0.0, abs=1e-4)
    assert _loss(compute, known.roll(1, 0), known) > 1.0


def test_feature_maps_are_averaged(compute: Any) -> None:
    """An embedding with height and width counts by its mean, and widths may differ."""
    known = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    own = torch.cat([known.mean((2, 3)), torch.zeros(4, 2)], 1)
    assert _loss(compute, own, known) == pytest.approx(0.0, abs=1e-4)


def test_points_in_one_place_have_finite_gradients(compute: Any) -> None:
    """Where embeddings coincide neither loss nor gradient breaks."""
    own = torch.zeros(3, 2, requires_grad=True)
    level = torch.zeros(3, 2)
    found = compute(
        "rkd", level, level, [0, 0, 0], taps=({"embedding": own}, {"embedding": TRIANGLE}), labels=0.0
    )
    found.backward()
    assert math.isfinite(found.item())
    assert own.grad is not None
    assert bool(own.grad.isfinite().all())
    near = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    taps = {"embedding": near}, {"embedding": TRIANGLE}
    compute("rkd", level, level, [0, 0, 0], taps=taps, labels=0.0).backward()
    assert near.grad is not None
    assert float(near.grad.abs().max()) < 1e3


def test_labels_count_by_their_weight(compute: Any) -> None:
    """With the relations met, the cross-entropy remains, by its weight."""
    assert _loss(compute, LINE, LINE, labels=2.0) == pytest.approx(2 * math.log(2.0), abs=1e-5)
