"""MAML: a closed form, and the properties of Finn et al."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learnforge import Labelled, MetaGradient, Plugins, RecipeError
from learnforge.episodes import ImageEpisodes
from learnforge.options import build
from learnforge.stages.meta.engine import ENGINES, Engine, Rules


class _Slope(nn.Module):
    """y = w · x, the network whose losses are parabolas in w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.w * inputs


class _Squares(Rules):
    """Half the squared error, so that the support loss of one point (x, y) is (w x - y)² / 2."""

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * (outputs[:, 0] - labels).square().mean()

    query_loss = support_loss


def _points(*points: tuple[float, float]) -> Labelled:
    """One point (x, y) for each task."""
    both = torch.tensor(points, dtype=torch.float64)
    return Labelled(both[:, :1, None], both[:, 1:])


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    """Both engines, on the network y = w x with squared errors."""
    return ENGINES[request.param](_Slope(), "support", _Squares())


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the method from options."""
    return lambda **options: build(plugins.load("meta-learner", "maml"), options, "test")


def _gradient(method: Any, engine: Engine, w: float, support: Labelled, query: Labelled) -> MetaGradient:
    episodes = ImageEpisodes(support, query, torch.zeros(len(support.labels), 1, dtype=torch.int64))
    parameters = {"w": torch.tensor(w, dtype=torch.float64)}
    found = method.gradient(engine, parameters, episodes)
    assert isinstance(found, MetaGradient)
    return found


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_meta_gradient_of_a_parabola(make: Any, engine: Engine, steps: int) -> None:
    """With support (x, y), H = x²: w_K = y/x + (1 - a H)^K (w - y/x), and dL/dw = (1 - a H)^K (w_K u -
    v) u.
    """
    (x, y), (u, v), rate, w = (2.0, 3.0), (1.5, -1.0), 0.1, 0.7
    shrink = (1 - rate * x * x) ** steps
    adapted = y / x + shrink * (w - y / x)
    method = make(inner_rate=rate, inner_steps=steps)
    found = _gradient(method, engine, w, _points((x, y)), _points((u, v)))
    assert found.gradients["w"].item() == pytest.approx(shrink * (adapted * u - v) * u)
    assert found.losses.tolist() == pytest.approx([0.5 * (adapted * u - v) ** 2])


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_leaves_the_hessian_out(make: Any, engine: Engine, steps: int) -> None:
    """FOMAML's gradient is the query gradient at the adapted weights: the same without the factor (1 - a
    H)^K.
    """
    (x, y), (u, v), rate, w = (2.0, 3.0), (1.5, -1.0), 0.1, 0.7
    adapted = y / x + (1 - rate * x * x) ** steps * (w - y / x)
    method = make(inner_rate=rate, inner_steps=steps, first_order=True)
    found = _gradient(method, engine, w, _points((x, y)), _points((u, v)))
    assert found.gradients["w"].item() == pytest.approx((adapted * u - v) * u)


def test_tasks_are_averaged(make: Any, engine: Engine) -> None:
    """The meta-gradient of several tasks is the mean of each one's, and their losses stay apart."""
    supports, queries = [(2.0, 3.0), (-1.0, 0.5)], [(1.5, -1.0), (0.3, 2.0)]
    method = make(inner_rate=0.1, inner_steps=2)
    both = _gradient(method, engine, 0.7, _points(*supports), _points(*queries))
    alone = [
        _gradient(method, engine, 0.7, _points(s), _points(q)) for s, q in zip(supports, queries, strict=True)
    ]
    assert both.gradients["w"].item() == pytest.approx(sum(a.gradients["w"].item() for a in alone) / 2)
    assert both.losses.tolist() == pytest.approx([a.losses.item() for a in alone])


def test_meta_gradient_is_the_slope_of_the_adapted_loss(make: Any) -> None:
    """For a network with a non-linearity, the meta-gradient is the finite difference of the query loss after
    adaptation.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    generator = torch.Generator().manual_seed(1)

    def draw(count: int) -> Labelled:
        images = torch.randn(2, count, 1, 2, 2, generator=generator, dtype=torch.float64)
        return Labelled(images, torch.arange(count).remainder(2).expand(2, -1))

    support, query = draw(4), draw(6)
    episodes = ImageEpisodes(support, query, torch.zeros(2, 2, dtype=torch.int64))
    method, engine = make(inner_rate=0.5, inner_steps=3), ENGINES["loop"](network, "support")
    theta = {name: p.detach().clone() for name, p in network.named_parameters()}
    found = method.gradient(engine, theta, episodes)
    direction = {
        name: torch.randn(t.shape, generator=generator, dtype=torch.float64) for name, t in theta.items()
    }

    def after(step: float) -> float:
        moved = {name: t + step * direction[name] for name, t in theta.items()}
        return float(method.gradient(engine, moved, episodes).losses.mean())

    slope = (after(1e-5) - after(-1e-5)) / 2e-5
    predicted = sum((found.gradients[name] * direction[name]).sum().item() for name in theta)
    assert predicted == pytest.approx(slope, rel=1e-6)


def test_adaptation_is_gradient_descent(make: Any, engine: Engine) -> None:
    """The trajectory holds the weights after 0, 1, 2, … steps of gradient descent on the support loss."""
    x, y, rate, w = 2.0, 3.0, 0.1, 0.7
    method = make(inner_rate=rate, inner_steps=1, adaptation_steps=3)
    parameters = {"w": torch.tensor(w, dtype=torch.float64)}
    trajectory = method.adapt(engine, parameters, _points((x, y)))
    expected = [y / x + (1 - rate * x * x) ** k * (w - y / x) for k in range(4)]
    assert [point.of(0)["w"].item() for point in trajectory] == pytest.approx(expected)
    assert parameters["w"].item() == w


@pytest.mark.parametrize(("adaptation", "length"), [(None, 3), (0, 1), (5, 6)])
def test_adaptation_steps_default_to_inner_steps(
    make: Any, engine: Engine, adaptation: int | None, length: int
) -> None:
    """Without a number of their own, adaptation takes as many steps as meta-training."""
    method = make(inner_steps=2, **({} if adaptation is None else {"adaptation_steps": adaptation}))
    parameters = {"w": torch.tensor(0.7, dtype=torch.float64)}
    assert len(method.adapt(engine, parameters, _points((2.0, 3.0)))) == length


def test_one_step_of_a_classifier_worked_by_hand(make: Any) -> None:
    """From zero weights a linear two-class learner has probabilities 1/2, so a step moves weights by a/2 ·
    ±x.
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    zero = {"1.weight": torch.zeros(2, 2, dtype=torch.float64)}
    support = Labelled(torch.tensor([[[1.0, -2.0]]], dtype=torch.float64), torch.tensor([[0]]))
    method = make(inner_rate=0.4)
    adapted = method.adapt(ENGINES["loop"](network, "support"), zero, support)[-1].of(0)["1.weight"]
    assert adapted.flatten().tolist() == pytest.approx([0.2, -0.4, -0.2, 0.4])
    scores = adapted @ support.images[0, 0]
    assert F.cross_entropy(scores[None], torch.tensor([0])).item() < torch.log(torch.tensor(2.0)).item()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_rate": 0.0}, r"inner_rate: 'inner_rate' must be > 0\.0: 0\.0"),
        ({"inner_steps": 0}, r"inner_steps: 'inner_steps' must be >= 1: 0"),
        ({"adaptation_steps": -1}, r"adaptation_steps: 'adaptation_steps' must be >= 0: -1"),
        ({"first_order": 1}, r"first_order: must be true or false, got 1"),
    ],
)
def test_wrong_options_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=message):
        make(**options)
