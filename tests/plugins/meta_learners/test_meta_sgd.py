"""Meta-SGD: the slope with respect to the rates, and MAML where all rates are equal."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.plugins.meta_learners.conftest import gradient_of, points

from learnforge import Plugins, RecipeError
from learnforge.kinds.seen.engine import Engine
from learnforge.options.structure import build


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the method from options."""
    return lambda **options: build(plugins.load("meta-learner", "meta-sgd"), options, "test")


def _rate(value: float) -> dict[str, torch.Tensor]:
    return {"rate:w": torch.tensor(value, dtype=torch.float64)}


def test_gradient_worked_by_hand(make: Any, engine: Engine) -> None:
    """After one step w' = w - a g with g = x (x w - y), dL/da = - (w' u - v) u g and dL/dw = (1 - a x²) ·
    (w' u - v) u.
    """
    (x, y), (u, v), rate, w = (2.0, 3.0), (1.5, -1.0), 0.15, 0.7
    slope = x * (x * w - y)
    after = ((w - rate * slope) * u - v) * u
    found = gradient_of(make(), engine, w, points((x, y)), points((u, v)), _rate(rate))
    assert found.gradients["rate:w"].item() == pytest.approx(-after * slope)
    assert found.gradients["w"].item() == pytest.approx((1 - rate * x * x) * after)


@pytest.mark.parametrize("steps", [1, 3])
def test_equal_rates_are_mamls(make: Any, plugins: Plugins, engine: Engine, steps: int) -> None:
    """With one rate for all, gradient and adaptation are those of MAML with that rate."""
    support, query = points((2.0, 3.0), (-1.0, 0.5)), points((1.5, -1.0), (0.3, 2.0))
    options = {"inner_rate": 0.1, "inner_steps": steps}
    maml = build(plugins.load("meta-learner", "maml"), options, "test")
    own = gradient_of(make(**options), engine, 0.7, support, query, _rate(0.1))
    assert own.gradients["w"].item() == pytest.approx(
        gradient_of(maml, engine, 0.7, support, query).gradients["w"].item()
    )
    theta = {"w": torch.tensor(0.7, dtype=torch.float64)}
    ends = [
        make(**options).adapt(engine, {**theta, **_rate(0.1)}, support)[-1].tensors["w"],
        maml.adapt(engine, theta, support)[-1].tensors["w"],
    ]
    assert torch.allclose(*ends)


def test_every_parameter_has_a_rate_of_its_own(make: Any) -> None:
    """Rates have the shapes of the parameters, and start at `inner_rate`."""
    extra = make(inner_rate=0.2).extra_parameters({"w": torch.zeros(2, 3), "b": torch.zeros(2)})
    assert {name: tuple(t.shape) for name, t in extra.items()} == {"rate:w": (2, 3), "rate:b": (2,)}
    assert all((t == 0.2).all() for t in extra.values())


def test_wrong_options_are_refused(make: Any) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=r"inner_rate: 'inner_rate' must be > 0.0: 0.0"):
        make(inner_rate=0.0)
