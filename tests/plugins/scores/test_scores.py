"""Zero-cost scores, each by hand on a network whose numbers can be followed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from learnforge import Plugins
from learnforge_testing.toys import make_network, make_task


def linear(*rows: list[float], bias: float = 0.0) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows))
    layer.weight.data = torch.tensor(rows)
    nn.init.constant_(layer.bias, bias)
    return layer


@pytest.fixture
def score(plugins: Plugins) -> Any:
    """Score a network by name."""

    def run(name: str, network: nn.Module, images: torch.Tensor, labels: Any = (0, 1)) -> float:
        method = plugins.load("score", name)()
        return float(method.score(network.train(), images, torch.tensor(labels)))

    return run


def test_naswot_by_hand(score: Any) -> None:
    """Two images, three rectifiers, codes 110 and 100: K = [[3, 2], [2, 3]], log det 5."""
    network = nn.Sequential(linear([1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]), nn.ReLU(inplace=True))
    images = torch.tensor([[1.0, 1.0], [2.0, -1.0]])
    assert score("naswot", network, images) == pytest.approx(math.log(5.0))


def test_naswot_of_equal_codes_is_the_lowest(score: Any) -> None:
    """Images that a network cannot tell apart make K singular: log 0."""
    network = nn.Sequential(linear([1.0, 0.0]), nn.ReLU())
    assert score("naswot", network, torch.tensor([[1.0, 1.0], [2.0, 1.0]])) == -math.inf


def test_naswot_ignores_the_size_of_what_it_sees(score: Any) -> None:
    """Only signs count: images twice as large have the same score where there is no bias."""
    network = nn.Sequential(linear([1.0, 0.5], [0.3, -1.0], [-1.0, 1.0]), nn.ReLU())
    images = torch.tensor([[1.0, 1.0], [2.0, -1.0]])
    assert score("naswot", network, images) == score("naswot", network, 2 * images)


def test_synflow_by_hand(score: Any) -> None:
    """|W1| = [[1, 2]], |W2| = [[3]]: R = 3 (1 + 2) + biases; dR/dW1 = 3, dR/dW2 = 3, so 3 * 1 + 3 * 2 + 3 *
    3 = 18.
    """
    network = nn.Sequential(linear([-1.0, 2.0]), linear([-3.0]))
    assert score("synflow", network, torch.zeros(1, 2)) == pytest.approx(18.0)


def test_logsynflow_by_hand(score: Any) -> None:
    """The same network: log(3 + 1) * (1 + 2) + log(3 + 1) * 3."""
    network = nn.Sequential(linear([-1.0, 2.0]), linear([-3.0]))
    assert score("logsynflow", network, torch.zeros(1, 2)) == pytest.approx(6 * math.log(4.0))


@pytest.mark.parametrize("name", ["synflow", "logsynflow"])
def test_synflow_sees_no_data_and_no_normalisation(name: str, score: Any) -> None:
    """Neither images nor the scale of batch normalisation change it."""
    network = make_network(make_task().info)
    images = torch.randn(2, 1, 12, 12)
    first = score(name, make_network(make_task().info), images)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.weight, 7.0)
    assert score(name, network, -images) == first


def test_synflow_is_homogeneous(score: Any) -> None:
    """Each weight's part is R itself, summed over layers: doubling one layer doubles the score of a net
    without bias.
    """
    one = nn.Sequential(linear([1.0, 2.0]), linear([3.0]))
    two = nn.Sequential(linear([2.0, 4.0]), linear([3.0]))
    images = torch.zeros(1, 2)
    assert score("synflow", two, images) == pytest.approx(2 * score("synflow", one, images))


def test_gradient_scores_by_hand(score: Any) -> None:
    """A linear layer with weights of zero: dL/dW = mean over images of (softmax - one-hot) x."""
    images = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    gradient = torch.tensor([[-0.5, 1.0], [0.5, -1.0]]) / 2
    bias = torch.tensor([0.0, 0.0])
    expected = math.sqrt(float((gradient**2).sum())) + math.sqrt(float((bias**2).sum()))
    assert score("grad-norm", linear([0.0, 0.0], [0.0, 0.0]), images) == pytest.approx(expected)
    assert score("snip", linear([0.0, 0.0], [0.0, 0.0]), images) == 0.0


def test_snip_weighs_gradients_by_weights(score: Any) -> None:
    """The sum of |gradient * weight| over weights, biases left out, as autograd has it."""
    images, layer = torch.randn(4, 3), linear([0.1, -0.2, 0.3], [0.5, 0.1, -0.4], bias=0.7)
    labels = torch.tensor([0, 1, 1, 0])
    (gradient,) = torch.autograd.grad(F.cross_entropy(layer(images), labels), [layer.weight])
    expected = float((gradient * layer.weight.detach()).abs().sum())
    assert score("snip", layer, images, (0, 1, 1, 0)) == pytest.approx(expected, rel=1e-5)
