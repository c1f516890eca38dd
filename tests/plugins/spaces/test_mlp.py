"""Perceptrons: layers, parameters by hand, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build

INFO = TaskInfo("task", ("a", "b"), ("a", "b"), (1, 4, 4), (0.5,), (0.25,))


def test_parameters_by_hand(plugins: Plugins) -> None:
    """16 to 8 to 4 to 2 with normalisation: 136 + 16, 36 + 8, 10."""
    space: Any = plugins.load("space", "mlp")()
    design = {"widths": [8, 4], "activation": "tanh", "normalise": True, "dropout": 0.25}
    network = space.build(design, INFO)
    assert sum(p.numel() for p in network.parameters()) == 136 + 16 + 36 + 8 + 10
    hidden = ["Linear", "BatchNorm1d", "Tanh", "Dropout"]
    assert [type(layer).__name__ for layer in network] == ["Flatten", *hidden, *hidden, "Linear"]
    assert network[4].p == 0.25
    assert network(torch.zeros(3, 1, 4, 4)).shape == (3, 2)


def test_without_normalisation_it_is_left_out(plugins: Plugins) -> None:
    """No layer stands for what was not chosen."""
    space: Any = plugins.load("space", "mlp")()
    network = space.build({"widths": [8], "activation": "relu", "normalise": False, "dropout": 0.0}, INFO)
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in network)


def test_widths_must_leave_a_choice(plugins: Plugins) -> None:
    """The greatest width is at least the least."""
    with pytest.raises(RecipeError, match="max_width must be at least min_width = 8, got 4"):
        build(plugins.load("space", "mlp"), {"max_width": 4}, "test")
