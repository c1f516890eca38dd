"""The Gaussian policy: means from the network, deviations of their own, with a floor."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from learnforge import Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build

NAMES = ("a", "b", "c")
ORIGINS = ("noise:a", "noise:b", "noise:c")
INFO = TaskInfo("noise", NAMES, ORIGINS, (5, 1, 1), (0.0,) * 5, (1.0,) * 5, "environment")


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Build a network from options."""
    model = plugins.load("model", "gaussian-policy")
    return lambda **options: build(model, options, "test").build(INFO)


def test_deviations_do_not_depend_on_what_is_observed(make: Any) -> None:
    """The second half of the outputs are the parameters, the first half changes with the observation."""
    network = make(deviation=0.5)
    found = network(torch.randn(9, 5, 1, 1)).detach()
    assert found.shape == (9, 6)
    assert torch.allclose(found[:, 3:], torch.full((9, 3), math.log(0.5)))
    assert float(found[:, :3].std(0).min()) > 0


def test_deviations_have_a_floor(make: Any) -> None:
    """However small they are learned, they stay at 1e-6."""
    network = make()
    network.log_std.data.fill_(-50.0)
    assert torch.allclose(network(torch.randn(2, 5, 1, 1))[:, 3:].exp(), torch.full((2, 3), 1e-6))


def test_size(make: Any) -> None:
    """5 → 7 → 3 with biases, and three deviations."""
    assert sum(p.numel() for p in make(hidden=[7]).parameters()) == 6 * 7 + 8 * 3 + 3


def test_it_is_for_environments_alone(make: Any, tmp_path: Any) -> None:
    """A recipe that gives it a classification task is refused, and says why."""
    from learnforge import PluginChoice, run

    recipe = {
        "run": {"name": "wrong", "seed": 0},
        "task": {"use": "digits", "classes": [0, 1, 2], "test_classes": [4, 7]},
        "stage": [{"kind": "meta", "use": "maml", "from": {"use": "gaussian-policy"}}],
    }
    with pytest.raises(RecipeError, match="GaussianPolicy takes tasks of the form environment, digits"):
        run(recipe, tmp_path / "run", plugins=PluginChoice())
    with pytest.raises(RecipeError, match="deviation"):
        make(deviation=0.0)
