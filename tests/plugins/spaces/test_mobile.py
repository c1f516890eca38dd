"""The mobile space: shapes, parameters by hand, and what a block consists of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build

INFO = TaskInfo("task", ("a", "b"), ("a", "b"), (3, 16, 16), (0.5,) * 3, (0.25,) * 3)
STAGE = {"width": 8, "depth": 1, "kernel": 3, "expansion": 3, "squeeze": False, "activation": "relu"}


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the space from options."""
    return lambda **options: build(plugins.load("space", "mobile"), options, "test")


def test_parameters_by_hand(make: Any) -> None:
    """Stem 3*8*9 + 16; block 8*24 + 48, 24*9 + 48, 24*8 + 16; head 8*2 + 2."""
    network = make(stages=1).build({"stages": [STAGE]}, INFO)
    expected = (216 + 16) + (192 + 48) + (216 + 48) + (192 + 16) + 18
    assert sum(p.numel() for p in network.parameters()) == expected


def test_squeeze_and_excite_adds_its_two_layers(make: Any) -> None:
    """A gate over 24 channels squeezes to 6: 24*6 + 6 + 6*24 + 24 more parameters."""
    plain, gated = (
        sum(
            p.numel() for p in make(stages=1).build({"stages": [{**STAGE, "squeeze": on}]}, INFO).parameters()
        )
        for on in (False, True)
    )
    assert gated - plain == 24 * 6 + 6 + 6 * 24 + 24


def test_an_expansion_of_one_leaves_the_first_convolution_out(make: Any) -> None:
    """Such a block filters and projects, and no more."""
    network = make(stages=1).build({"stages": [{**STAGE, "expansion": 1}]}, INFO)
    assert (
        sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == 3
    )  # the stem's and the block's two


def test_stages_halve_the_resolution(make: Any) -> None:
    """The first block of each stage but the first has a step of two; shortcuts go around the others of equal
    width.
    """
    network = make(stages=3).build({"stages": [{**STAGE, "depth": 2}] * 3}, INFO)
    blocks = [layer for layer in network if hasattr(layer, "has_shortcut")]
    assert [block.has_shortcut for block in blocks] == [True, True, False, True, False, True]
    shapes: list[Any] = []
    for block in blocks:
        block.register_forward_hook(lambda layer, inputs, output: shapes.append(output.shape[-1]))
    network(torch.zeros(1, 3, 16, 16))
    assert shapes == [16, 16, 8, 8, 4, 4]


def test_a_gate_of_zero_closes(make: Any) -> None:
    """With weights of zero the gate is hardsigmoid(0) = 1/2; with a bias of -3 it is shut."""
    from learnforge_plugins.spaces.mobile import SqueezeExcite

    gate = SqueezeExcite(8)
    for parameter in gate.parameters():
        nn.init.zeros_(parameter)
    images = torch.randn(2, 8, 3, 3)
    assert torch.equal(gate(images), images / 2)
    nn.init.constant_(gate.excite.bias, -3.0)
    assert torch.equal(gate(images), torch.zeros_like(images))


def test_even_kernels_are_refused(make: Any) -> None:
    """A kernel must be odd, so that it has a middle."""
    with pytest.raises(RecipeError, match="'kernels' must hold odd numbers from 1, got 4"):
        make(kernels=(3, 4))
