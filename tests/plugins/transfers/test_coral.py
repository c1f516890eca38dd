"""Correlation alignment: covariances by hand, and what they do not see."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from learnforge import Batch, Outputs


@pytest.fixture
def distance(make: Any, batch_of: Callable[..., Batch]) -> Callable[..., float]:
    """Compute the weighted distance alone: the loss without its cross-entropy."""

    def compute(own: Tensor, other: Tensor, **options: Any) -> float:
        method, batch = make("coral", **options), batch_of([0] * len(own))
        plain = torch.nn.functional.cross_entropy(own, batch.labels)
        embedding = {"embedding": own}, {"embedding": other}
        outputs = [Outputs(scores, taps) for scores, taps in zip((own, other), embedding, strict=True)]
        return float(method.loss(outputs[0], batch, outputs[1], batch_of([-1] * len(other))) - plain)

    return compute


def test_distance_by_hand(distance: Any) -> None:
    """Covariances [[2, 0], [0, 0]] and [[0, 0], [0, 8]] are apart by 4 + 64, over 4 · 2²."""
    own, other = torch.tensor([[1.0, 5.0], [-1.0, 5.0]]), torch.tensor([[7.0, 2.0], [7.0, -2.0]])
    assert distance(own, other) == pytest.approx(68 / 16, rel=1e-5)
    assert distance(own, other, weight=0.5) == pytest.approx(34 / 16, rel=1e-5)
    assert distance(own, other, layer="embedding") == pytest.approx(68 / 16, rel=1e-5)


def test_means_do_not_count(distance: Any) -> None:
    """Shifted and reordered scores have the same covariance."""
    own = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    assert distance(own, own.flip(0) + 4.0) == pytest.approx(0.0, abs=1e-5)


def test_turned_axes_count(distance: Any) -> None:
    """A rotation by a right angle swaps the variances of two scores."""
    own = torch.tensor([[3.0, 0.0], [-3.0, 0.0]])
    other = torch.stack([own[:, 1], own[:, 0]], 1)
    assert distance(own, other) == pytest.approx(2 * 18**2 / 16, rel=1e-5)
    assert math.isfinite(distance(own[:1], other[:1]))  # one image has no covariance


def test_layers(make: Any) -> None:
    """Scores need no tap, the embedding does."""
    assert list(make("coral").taps(None)) == []
    assert list(make("coral", layer="embedding").taps(None)) == ["embedding"]
