"""Maximum mean discrepancy: by hand, and zero in expectation for one distribution."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from learnforge import Outputs


def test_discrepancy_by_hand(make: Any) -> None:
    """Points 0, 2 against 4, 6: squared distances 4 within, 16, 36, 4, 16 across; mean over pairs 80 / 6."""
    own, foreign = torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])
    scale = (4 + 4 + 16 + 36 + 4 + 16) / 6

    def kernel(square: float) -> float:
        return math.exp(-square / scale)

    across = (kernel(16) + kernel(36) + kernel(4) + kernel(16)) / 4
    found = make("mmd", spread=0)._discrepancy(own, foreign)
    assert float(found) == pytest.approx(2 * kernel(4) - 2 * across, rel=1e-5)


def test_several_bandwidths_are_averaged(make: Any) -> None:
    """With `spread = 1` the kernel is the mean of those of half, once and twice the bandwidth."""
    own, foreign = torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [6.0]])
    scale = 80 / 6

    def kernel(square: float) -> float:
        return sum(math.exp(-square / (scale * factor)) for factor in (0.5, 1, 2)) / 3

    across = (kernel(16) + kernel(36) + kernel(4) + kernel(16)) / 4
    found = make("mmd", spread=1)._discrepancy(own, foreign)
    assert float(found) == pytest.approx(2 * kernel(4) - 2 * across, rel=1e-5)


def test_estimate_is_unbiased(make: Any) -> None:
    """Samples of one distribution are apart by nothing on average, those of two by more."""
    generator = torch.Generator().manual_seed(0)
    method = make("mmd")
    same, apart = [], []
    for _ in range(200):
        own, foreign = torch.randn(2, 8, 3, generator=generator)
        same.append(float(method._discrepancy(own, foreign)))
        apart.append(float(method._discrepancy(own, foreign + 1.0)))
    spread = torch.tensor(same).std() / 200**0.5
    assert abs(sum(same) / 200) < 3 * float(spread)
    assert sum(apart) / 200 > 0.1


def test_embedding_and_scores_are_summed(make: Any, batch_of: Any) -> None:
    """The loss is the cross-entropy and the weighted discrepancy of both layers."""
    generator = torch.Generator().manual_seed(1)
    scores, others, own, foreign = torch.randn(4, 5, 3, generator=generator)
    method, batch = make("mmd", weight=0.5), batch_of([0, 1, 2, 0, 1])
    found = method.loss(
        Outputs(scores, {"embedding": own}),
        batch,
        Outputs(others, {"embedding": foreign}),
        batch_of([-1] * 5),
    )
    apart = method._discrepancy(own, foreign) + method._discrepancy(scores, others)
    assert float(found) == pytest.approx(
        float(torch.nn.functional.cross_entropy(scores, batch.labels) + 0.5 * apart), rel=1e-5
    )


def test_equal_images_are_no_trouble(make: Any) -> None:
    """A batch of one image over and over has a finite loss and gradient."""
    own = torch.ones(3, 2, requires_grad=True)
    found = make("mmd")._discrepancy(own, torch.ones(3, 2))
    found.backward()
    assert float(found.detach()) == pytest.approx(0.0, abs=1e-6)
    assert own.grad is not None
    assert bool(own.grad.isfinite().all())
