"""MAML: a closed form, and the properties of Finn et al."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.plugins.meta_learners.conftest import gradient_of, points
from torch import nn

from learnforge import Labelled, Plugins, RecipeError
from learnforge.kinds.seen.engine import Engine
from learnforge.options.structure import build
from learnforge_kit import ImageEpisodes
from learnforge_kit.engines.choice import ENGINES


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the method from options."""
    return lambda **options: build(plugins.load("meta-learner", "maml"), options, "test")


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_meta_gradient_of_a_parabola(make: Any, engine: Engine, steps: int) -> None:
    """With support (x, y), H = x²: w_K = y/x + (1 - a H)^K (w - y/x), and dL/dw = (1 - a H)^K (w_K u -
    v) u.
    """
    (x, y), (u, v), rate, w = (2.0, 3.0), (1.5, -1.0), 0.1, 0.7
    shrink = (1 - rate * x * x) ** steps
    adapted = y / x + shrink * (w - y / x)
    method = make(inner_rate=rate, inner_steps=steps)
    found = gradient_of(method, engine, w, points((x, y)), points((u, v)))
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
    found = gradient_of(method, engine, w, points((x, y)), points((u, v)))
    assert found.gradients["w"].item() == pytest.approx((adapted * u - v) * u)


def test_tasks_are_averaged(make: Any, engine: Engine) -> None:
    """The meta-gradient of several tasks is the mean of each one's, and their losses stay apart."""
    supports, queries = [(2.0, 3.0), (-1.0, 0.5)], [(1.5, -1.0), (0.3, 2.0)]
    method = make(inner_rate=0.1, inner_steps=2)
    both = gradient_of(method, engine, 0.7, points(*supports), points(*queries))
    alone = [
        gradient_of(method, engine, 0.7, points(s), points(q)) for s, q in zip(supports, queries, strict=True)
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
    trajectory = method.adapt(engine, parameters, points((x, y)))
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
    assert len(method.adapt(engine, parameters, points((2.0, 3.0)))) == length


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


def test_learned_rates_have_the_slope_of_a_parabola(make: Any, engine: Engine) -> None:
    """With w_{k+1} = w_k - a_k x (x w_k - y) and H = x², dL/da_k = - v_{k+1} x (x w_k - y), where v_K =
    (w_K u - v) u and v_k = (1 - a_k H) v_{k+1}.
    """
    (x, y), (u, v), rates, w = (2.0, 3.0), (1.5, -1.0), (0.1, 0.05), 0.7
    slopes = [x * (x * w - y)]
    middle = w - rates[0] * slopes[0]
    slopes.append(x * (x * middle - y))
    last = middle - rates[1] * slopes[1]
    after = (last * u - v) * u
    before = (1 - rates[1] * x * x) * after
    method = make(inner_rate=0.1, inner_steps=2, learned_rates=True)
    start = method.extra_parameters({"w": torch.tensor(w, dtype=torch.float64)})
    assert {name: t.tolist() for name, t in start.items()} == {"inner_rate:w": [0.1, 0.1]}
    learnt = {"inner_rate:w": torch.tensor(rates, dtype=torch.float64)}
    found = gradient_of(method, engine, w, points((x, y)), points((u, v)), learnt)
    assert found.gradients["inner_rate:w"].tolist() == pytest.approx(
        [-before * slopes[0], -after * slopes[1]]
    )
    assert found.gradients["w"].item() == pytest.approx((1 - rates[0] * x * x) * before)


def test_steps_beyond_those_learned_have_the_last_rate(make: Any, engine: Engine) -> None:
    """Adaptation may take more steps than meta-training; they go on at the last learned rate."""
    method = make(inner_steps=1, adaptation_steps=2, learned_rates=True)
    parameters = {
        "w": torch.tensor(0.0, dtype=torch.float64),
        "inner_rate:w": torch.tensor([0.1], dtype=torch.float64),
    }
    trajectory = method.adapt(engine, parameters, points((1.0, 1.0)))
    assert [at.of(0)["w"].item() for at in trajectory] == pytest.approx([0.0, 0.1, 0.19])


@pytest.mark.parametrize(("progress", "early"), [(0.0, 1 / 3), (0.25, 1 / 6), (0.5, 0.0), (1.0, 0.0)])
def test_multi_step_loss_moves_to_the_last_step(
    make: Any, engine: Engine, progress: float, early: float
) -> None:
    """The outer gradient is that of sum w_k L(w_k); at first all steps count alike, after a share of the
    training only the last one.
    """
    (x, y), (u, v), rate, w = (2.0, 3.0), (1.5, -1.0), 0.1, 0.7
    engine.progress = progress
    found = gradient_of(
        make(inner_rate=rate, inner_steps=3, multi_step=0.5), engine, w, points((x, y)), points((u, v))
    )
    shrink = [(1 - rate * x * x) ** k for k in (1, 2, 3)]
    slopes = [s * ((y / x + s * (w - y / x)) * u - v) * u for s in shrink]
    expected = early * slopes[0] + early * slopes[1] + (1 - 2 * early) * slopes[2]
    assert found.gradients["w"].item() == pytest.approx(expected)
    assert found.losses.item() == pytest.approx(0.5 * ((y / x + shrink[2] * (w - y / x)) * u - v) ** 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_rate": 0.0}, r"inner_rate: 'inner_rate' must be > 0\.0: 0\.0"),
        ({"inner_steps": 0}, r"inner_steps: 'inner_steps' must be >= 1: 0"),
        ({"adaptation_steps": -1}, r"adaptation_steps: 'adaptation_steps' must be >= 0: -1"),
        ({"multi_step": 1.5}, r"multi_step: 'multi_step' must be <= 1\.0: 1\.5"),
        ({"first_order": 1}, r"first_order: must be true or false, got 1"),
    ],
)
def test_wrong_options_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=message):
        make(**options)
