"""The multilayer perceptron: its size, its layers and its family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, RecipeError
from learnforge.options.structure import build
from learnforge_kit.networks.layers import count_parameters
from learnforge_testing.network import make_info


@pytest.fixture(scope="module")
def mlp(plugins: Plugins) -> Any:
    """Make the model from options."""
    return lambda **options: build(plugins.load("model", "mlp"), options, "test")


def test_size_worked_by_hand(mlp: Any) -> None:
    """3 · 4 · 5 pixels into 7, 6 and 5 numbers: 61 · 7 + ... with a bias each."""
    info = make_info((3, 4, 5))
    sizes = 61 * 7 + 8 * 6 + 7 * info.outputs
    assert count_parameters(mlp(hidden=[7, 6]).build(info)) == sizes
    assert count_parameters(mlp(hidden=[]).build(info)) == 61 * info.outputs


def test_hidden_layers_are_rectified_and_dropped(mlp: Any) -> None:
    """A rectifier after each hidden layer, dropout only where it is asked for, none after the scores."""
    layers = [type(layer) for layer in mlp(hidden=[4, 4], dropout=0.5).build(make_info((1, 8, 8)))]
    hidden = [nn.Linear, nn.ReLU, nn.Dropout]
    assert layers == [nn.Flatten, *hidden, *hidden, nn.Linear]
    assert nn.Dropout not in [type(layer) for layer in mlp().build(make_info((1, 8, 8)))]
    scores = mlp(hidden=[4]).build(make_info((1, 8, 8)))(torch.zeros(2, 1, 8, 8))
    assert scores.shape == (2, make_info((1, 8, 8)).outputs)


def test_family_scales_all_layers_alike(mlp: Any) -> None:
    """The family has smaller and larger ones of the same shape, itself among them."""
    family = [model.hidden for model in mlp(hidden=[16, 8]).family()]
    assert (16, 8) in family
    assert min(family) == (1, 1)
    assert max(family) == (4096, 2048)
    assert len(set(family)) == len(family)


def test_wrong_options_are_refused(mlp: Any) -> None:
    """Layers have at least one unit, dropout is a share."""
    with pytest.raises(RecipeError, match="hidden"):
        mlp(hidden=[0])
    with pytest.raises(RecipeError, match="'dropout' must be < 1"):
        mlp(dropout=1.0)
