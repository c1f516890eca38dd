"""ANIL: the body stays, the head moves, and the gradient goes through the head's steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.plugins.meta_learners.conftest import Slope, Squares, points
from torch import nn

from learnforge import Labelled, Plugins, RecipeError, StageError
from learnforge.options.structure import build
from learnforge_kit import ImageEpisodes
from learnforge_kit.engines.choice import ENGINES

NAMES = ["chain", "loop", "vmap"]


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the method from options."""
    return lambda **options: build(plugins.load("meta-learner", "anil"), options, "test")


def _classes(network: nn.Module) -> tuple[dict[str, torch.Tensor], ImageEpisodes]:
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> Labelled:
        images = torch.randn(2, count, 1, 2, 2, generator=generator, dtype=torch.float64)
        return Labelled(images, torch.arange(count).remainder(2).expand(2, -1))

    episodes = ImageEpisodes(draw(4), draw(6), torch.zeros(2, 2, dtype=torch.int64))
    return {name: p.detach().clone() for name, p in network.named_parameters()}, episodes


@pytest.mark.parametrize("name", ["loop", "vmap"])
def test_gradient_worked_by_hand(make: Any, name: str) -> None:
    """For y = c (w x) + b, with e the error on the support point, the head becomes c' = c - r e w x and b' =
    b - r e; w moves the query through its feature and through both of these.
    """
    (x, y), (u, t), (w, c, b), rate = (2.0, 3.0), (1.5, -1.0), (0.7, -0.4, 0.2), 0.1
    error = c * w * x + b - y
    moved = c - rate * error * w * x
    missed = moved * w * u + b - rate * error - t
    slope_c = -rate * (c * x * w * x + error * x)
    expected = {
        "0.w": missed * (moved * u + w * u * slope_c - rate * c * x),
        "1.weight": missed * (w * u * (1 - rate * (w * x) ** 2) - rate * w * x),
        "1.bias": missed * (-rate * w * x * w * u + 1 - rate),
    }
    network = nn.Sequential(Slope(), nn.Linear(1, 1)).double()
    theta = {"0.w": torch.tensor(w), "1.weight": torch.tensor([[c]]), "1.bias": torch.tensor([b])}
    theta = {key: value.double() for key, value in theta.items()}
    support, query = points((x, y)), points((u, t))
    episodes = ImageEpisodes(support, query, torch.zeros(1, 1, dtype=torch.int64))
    found = make(inner_rate=rate).gradient(ENGINES[name](network, "support", Squares()), theta, episodes)
    assert {key: g.item() for key, g in found.gradients.items()} == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_that_is_all_head_is_mamls(make: Any, plugins: Plugins, name: str) -> None:
    """Where there is no body, ANIL is MAML: gradient and adapted parameters."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double()
    theta, episodes = _classes(network)
    engine = ENGINES[name](network, "support")
    maml = build(plugins.load("meta-learner", "maml"), {"inner_steps": 3}, "test")
    one, other = make(inner_steps=3), maml
    for found, expected in (
        (m.gradient(engine, theta, episodes).gradients for m in (one, other)),
        (m.adapt(engine, theta, episodes.support)[-1].tensors for m in (one, other)),
    ):
        assert set(found) == set(expected)
        assert all(torch.allclose(found[key], expected[key], rtol=1e-12) for key in expected)


@pytest.mark.parametrize("name", NAMES)
def test_the_body_stays_bit_for_bit(make: Any, name: str) -> None:
    """After adaptation the head has moved in every task, and nothing else by a bit."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    theta, episodes = _classes(network)
    trajectory = make(adaptation_steps=2).adapt(ENGINES[name](network, "support"), theta, episodes.support)
    assert len(trajectory) == 3
    for task in range(2):
        end = trajectory[-1].of(task)
        assert {key for key in theta if not torch.equal(end[key], theta[key])} == {"3.weight", "3.bias"}


def test_networks_that_end_otherwise_are_refused(make: Any) -> None:
    """The head must be a linear layer with a bias; the last layer is named."""
    network = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Flatten()).double()
    theta, episodes = _classes(network)
    with pytest.raises(StageError, match=r"must end in a linear layer with a bias .* is '0', Conv2d"):
        make().gradient(ENGINES["loop"](network, "support"), theta, episodes)


def test_wrong_options_are_refused(make: Any) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=r"inner_steps: 'inner_steps' must be >= 1: 0"):
        make(inner_steps=0)
