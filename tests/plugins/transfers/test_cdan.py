"""Conditional adversarial adaptation: products by hand, weights by hand, projections in expectation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learnforge import Outputs
from learnforge_kit import adversarial_strength


def criterion_of(make: Any, features: int = 2, classes: int = 2, **options: Any) -> Any:
    outputs = Outputs(torch.zeros(1, classes), {"embedding": torch.zeros(1, features)})
    return make("cdan", **options).criterion(nn.Identity(), outputs, None)


def test_products_by_hand(make: Any) -> None:
    """Features (1, 2) and probabilities (0.25, 0.75) make (0.25, 0.75, 0.5, 1.5)."""
    found = criterion_of(make)._combine(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.25, 0.75]]))
    assert found.tolist() == [[0.25, 0.75, 0.5, 1.5]]


def test_projection_keeps_inner_products(make: Any) -> None:
    """With many random projections, T(f, g) . T(f', g') comes close to (f . f') (g . g')."""
    torch.manual_seed(0)
    criterion = criterion_of(make, 4, 3, width=1, hidden=1)
    width = 20000
    criterion.method = make("cdan", width=width)
    criterion.project_features, criterion.project_classes = torch.randn(width, 4), torch.randn(width, 3)
    (f, other_f), (g, other_g) = torch.rand(2, 1, 4), torch.rand(2, 1, 3)
    found = (criterion._combine(f, g) * criterion._combine(other_f, other_g)).sum()
    assert float(found) == pytest.approx(float((f * other_f).sum() * (g * other_g).sum()), rel=0.1)


def test_images_that_are_sure_count_more(make: Any, batch_of: Any) -> None:
    """Weights are 1 + exp(-H): 2 for a sure image, 1.5 for one between two classes."""
    criterion = criterion_of(make)
    criterion.discriminator = nn.Linear(4, 1)
    nn.init.constant_(criterion.discriminator.weight, 1.0)
    nn.init.zeros_(criterion.discriminator.bias)
    scores = torch.tensor([[100.0, 0.0], [0.0, 0.0]])
    seen = Outputs(scores, {"embedding": torch.tensor([[1.0, 1.0], [3.0, 1.0]])})
    losses = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-4))]
    found = criterion._deceive(seen, True, 1.0).detach()
    assert float(found) == pytest.approx((2 * losses[0] + 1.5 * losses[1]) / 3.5, rel=1e-5)
    criterion.method = make("cdan", entropy=False)
    assert float(criterion._deceive(seen, True, 1.0).detach()) == pytest.approx(sum(losses) / 2, rel=1e-5)


def test_loss_is_the_mean_of_both_domains(make: Any, batch_of: Any) -> None:
    """Cross-entropy plus the weighted mean of the discriminator's losses, features reversed by lambda."""
    generator = torch.Generator().manual_seed(0)
    own, other = (torch.randn(3, 2, generator=generator).requires_grad_(True) for _ in range(2))
    scores = torch.randn(3, 2, generator=generator)
    criterion = criterion_of(make, weight=0.5, hidden=4)
    seen = [Outputs(scores, {"embedding": features}) for features in (own, other)]
    loss = criterion(seen[0], batch_of([0, 1, 0], 0.4), seen[1], batch_of([-1] * 3))
    parts = [criterion._deceive(o, is_source, 1.0) for o, is_source in zip(seen, (True, False), strict=True)]
    hard = F.cross_entropy(scores, torch.tensor([0, 1, 0]))
    assert float(loss.detach()) == pytest.approx(
        float((hard + 0.25 * (parts[0] + parts[1])).detach()), rel=1e-5
    )
    (found,) = torch.autograd.grad(loss, own)
    (wanted,) = torch.autograd.grad(parts[0], own)
    torch.testing.assert_close(found, 0.25 * adversarial_strength(0.4) * wanted)


def test_certainty_works_against_the_discriminator(make: Any, batch_of: Any) -> None:
    """Through the weights the class scores get the discriminator's gradient, reversed by lambda; the sum of
    weights counts as a constant.
    """
    scores = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    criterion = criterion_of(make)
    seen = Outputs(scores, {"embedding": torch.randn(3, 2, generator=torch.Generator().manual_seed(1))})
    (found,) = torch.autograd.grad(criterion._deceive(seen, True, 0.25), scores)
    probabilities = scores.softmax(1)
    weights = 1 + (probabilities * scores.log_softmax(1)).sum(1).exp()
    guesses = criterion.discriminator(criterion._combine(seen.taps["embedding"], probabilities.detach()))
    losses = F.binary_cross_entropy_with_logits(guesses, torch.ones_like(guesses), reduction="none").squeeze(
        1
    )
    plain = (weights * losses.detach()).sum() / weights.sum().detach()
    (wanted,) = torch.autograd.grad(plain, scores)
    torch.testing.assert_close(found, -0.25 * wanted)


def test_no_gradient_goes_through_the_products(make: Any, batch_of: Any) -> None:
    """Without entropy conditioning only the labels' part reaches the class scores."""
    scores = torch.randn(2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    criterion = criterion_of(make, entropy=False)
    seen = Outputs(scores, {"embedding": torch.ones(2, 2)})
    (found,) = torch.autograd.grad(criterion(seen, batch_of([0, 1], 0.9), seen, batch_of([-1, -1])), scores)
    (wanted,) = torch.autograd.grad(F.cross_entropy(scores, torch.tensor([0, 1])), scores)
    torch.testing.assert_close(found, wanted)


def test_wide_products_are_projected(make: Any) -> None:
    """Beyond `width` products there are fixed random matrices, checkpointed but not trained."""
    criterion = criterion_of(make, 10, 10, width=99)
    assert criterion.is_projected
    assert {name for name, _ in criterion.named_buffers()} == {"project_features", "project_classes"}
    assert not criterion_of(make, 10, 10, width=100).is_projected
