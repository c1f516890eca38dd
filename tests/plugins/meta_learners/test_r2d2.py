"""R2-D2: the head is that of a ridge regression, in its other form, and has the limits of one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learnforge import Labelled, Plugins, RecipeError
from learnforge.options.structure import build
from learnforge_kit.engines.choice import ENGINES

NAMES = sorted(ENGINES)


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the method from options."""
    return lambda **options: build(plugins.load("meta-learner", "r2d2"), options, "test")


@pytest.fixture
def network() -> nn.Module:
    """A network whose embedding is the image itself, of three pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double()


def _support() -> Labelled:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 4, 1, 1, 3, generator=generator, dtype=torch.float64)
    return Labelled(images, torch.tensor([0, 1, 1, 0]).expand(2, -1))


def _head(method: Any, network: nn.Module, name: str) -> list[dict[str, Tensor]]:
    theta = {key: p.detach().clone() for key, p in network.named_parameters()}
    theta |= method.extra_parameters(theta)
    end = method.adapt(ENGINES[name](network, "support"), theta, _support())[-1]
    assert set(end.tensors) == {"1.weight", "1.bias"}
    return [end.of(task) for task in range(2)]


@pytest.mark.parametrize("name", NAMES)
def test_head_is_the_ridge_regression(make: Any, network: nn.Module, name: str) -> None:
    """In the other form: W = (X^T X + lambda I)^-1 X^T Y, here times alpha."""
    support = _support()
    for task, head in enumerate(_head(make(ridge=0.3, scale=2.0), network, name)):
        embedded = support.images[task].flatten(1)
        targets = torch.eye(2, dtype=torch.float64)[support.labels[task]]
        gram = embedded.T @ embedded + 0.3 * torch.eye(3, dtype=torch.float64)
        expected = 2.0 * torch.linalg.inv(gram) @ embedded.T @ targets
        assert torch.allclose(head["1.weight"], expected.T)
        assert head["1.bias"].tolist() == [0.0, 0.0]


def test_strong_regularisation_leaves_nothing(make: Any, network: nn.Module) -> None:
    """As lambda grows, weights become alpha X^T Y / lambda, and then nothing."""
    support = _support()
    weights = _head(make(ridge=1e6, scale=1.0), network, "loop")[0]["1.weight"]
    targets = torch.eye(2, dtype=torch.float64)[support.labels[0]]
    assert torch.allclose(weights.T * 1e6, support.images[0].flatten(1).T @ targets, rtol=1e-4)


def test_what_is_learned_beside_the_network(make: Any) -> None:
    """log lambda, alpha and beta are learned, and start at the options."""
    extra = make(ridge=0.5, scale=3.0).extra_parameters({"w": torch.zeros(2, dtype=torch.float64)})
    assert {name: t.item() for name, t in extra.items()} == pytest.approx(
        {"ridge:log_lambda": torch.tensor(0.5).log().item(), "ridge:alpha": 3.0, "ridge:beta": 0.0}
    )


@pytest.mark.parametrize("option", ["ridge", "scale"])
def test_wrong_options_are_refused(make: Any, option: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=rf"{option}: '{option}' must be > 0.0: 0.0"):
        make(**{option: 0.0})
