"""Domain-adversarial training: the discriminator's loss by hand, and gradients that work against it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnforge import Outputs
from learnforge_kit import adversarial_strength, reverse_gradient


def test_strength_follows_the_paper() -> None:
    """2 / (1 + exp(-10 p)) - 1 is 0 at the start and 0.99991 at the end."""
    assert adversarial_strength(0.0) == 0.0
    assert adversarial_strength(0.5) == pytest.approx(2 / (1 + math.exp(-5)) - 1)
    assert adversarial_strength(1.0) == pytest.approx(0.99991, abs=1e-5)


def test_reversal_gives_the_tensor_and_turns_its_gradient() -> None:
    """Forward is the identity, backward is times -strength."""
    tensor = torch.tensor([1.0, 2.0], requires_grad=True)
    turned = reverse_gradient(tensor, 0.25)
    assert torch.equal(turned, tensor)
    (turned * torch.tensor([1.0, 3.0])).sum().backward()
    assert tensor.grad is not None
    assert tensor.grad.tolist() == [-0.25, -0.75]


def outputs_of(features: Tensor) -> Outputs:
    return Outputs(torch.zeros(len(features), 2), {"embedding": features})


def test_loss_by_hand(make: Any, batch_of: Any) -> None:
    """A discriminator that says 1 to source and 0 to target features: log(2) for labels, and its own
    loss.
    """
    method = make("dann", weight=2.0)
    own, other = torch.ones(2, 3), torch.zeros(2, 3)
    criterion = method.criterion(nn.Identity(), outputs_of(own), None)
    criterion.discriminator = nn.Linear(3, 1)
    nn.init.constant_(criterion.discriminator.weight, 1.0)
    nn.init.zeros_(criterion.discriminator.bias)
    found = criterion(outputs_of(own), batch_of([0, 1], 0.5), outputs_of(other), batch_of([-1, -1]))
    confusion = math.log(1 + math.exp(-3)) + math.log(2)
    assert float(found.detach()) == pytest.approx(math.log(2) + 2 * confusion, rel=1e-5)


def test_features_work_against_the_discriminator(make: Any, batch_of: Any) -> None:
    """The discriminator follows its loss downhill; features get the opposite, by lambda, nothing at first."""
    generator = torch.Generator().manual_seed(0)
    own, other = (torch.randn(4, 3, generator=generator).requires_grad_(True) for _ in range(2))
    criterion = make("dann", hidden=5).criterion(nn.Identity(), outputs_of(own), None)
    plain = sum(
        F.binary_cross_entropy_with_logits(criterion.discriminator(features), torch.full((4, 1), domain))
        for features, domain in ((own, 1.0), (other, 0.0))
    )
    wanted = torch.autograd.grad(plain, [own, *criterion.parameters()])
    for progress in (0.0, 0.3):
        loss = criterion(outputs_of(own), batch_of([0] * 4, progress), outputs_of(other), batch_of([-1] * 4))
        found = torch.autograd.grad(loss, [own, *criterion.parameters()])
        torch.testing.assert_close(found[0], -adversarial_strength(progress) * wanted[0])
        for gradient, expected in zip(found[1:], wanted[1:], strict=True):
            torch.testing.assert_close(gradient, expected)
