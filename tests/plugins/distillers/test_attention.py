"""Attention transfer: a map by hand, and what does not matter to it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learnforge import StageError
from learnforge_kit.networks.layers import read_layers

LEVEL = torch.zeros(1, 2)
PAIRS = {"a": "b"}


def _loss(compute: Any, own: Tensor, known: Tensor, **options: Any) -> float:
    level = torch.zeros(len(own), 2)
    settings = {"pairs": PAIRS, "labels": 0.0, **options}
    return float(
        compute("attention", level, level, [0] * len(own), taps=({"a": own}, {"b": known}), **settings)
    )


def test_loss_worked_by_hand(compute: Any) -> None:
    """(3, 4) squared is (9, 16), of length √337; the teacher looks at the second pixel alone."""
    own, known = torch.tensor([[[[3.0, -4.0]]]]), torch.tensor([[[[0.0, 7.0]]]])
    length = math.sqrt(337.0)
    wanted = ((9 / length) ** 2 + (16 / length - 1) ** 2) / 2
    assert _loss(compute, own, known, weight=5.0) == pytest.approx(5 * wanted, rel=1e-5)


def test_power_by_hand(compute: Any) -> None:
    """With p = 1 the map is (3, 4) / 5."""
    own, known = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.0, 7.0]]]])
    assert _loss(compute, own, known, weight=1.0, power=1.0) == pytest.approx((0.36 + 0.04) / 2, rel=1e-5)


def test_pairs_add_up(compute: Any) -> None:
    """Two pairs have the sum of their losses, and labels count by their weight."""
    own, known = torch.tensor([[[[3.0, 4.0]]]]), torch.tensor([[[[0.0, 7.0]]]])
    single = _loss(compute, own, known, weight=1.0)
    taps = {"a": own, "c": known}, {"b": known, "d": own}
    both = compute(
        "attention", LEVEL, LEVEL, [0], taps=taps, pairs={"a": "b", "c": "d"}, weight=1.0, labels=2.0
    )
    assert float(both) == pytest.approx(2 * single + 2 * math.log(2.0), rel=1e-5)


def test_channels_and_scale_do_not_matter(compute: Any) -> None:
    """Other numbers and orders of channels, and other sizes of features, leave the map as it is."""
    known = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    doubled = torch.cat([known, -known], 1)[:, torch.randperm(8, generator=torch.Generator().manual_seed(1))]
    assert _loss(compute, 7 * doubled, known) == pytest.approx(0.0, abs=1e-6)
    assert _loss(compute, known.flip(3), known) > 0.1


def test_the_larger_map_is_averaged_down(compute: Any) -> None:
    """4 × 4 and 2 × 2 maps meet at 2 × 2."""
    small = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert _loss(compute, large, small) == pytest.approx(0.0, abs=1e-6)


def test_a_flat_layer_is_refused(make: Any) -> None:
    """A layer without height and width has no attention; the error says what it puts out."""
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(18, 3))
    layers = read_layers(network, torch.zeros(1, 1, 8, 8))
    with pytest.raises(StageError, match=r"needs a layer with a height and a width, '2' puts out \[18\]"):
        make("attention", pairs={"0": "2"}).taps(layers, layers)
    assert make("attention").taps(layers, layers) == (["stage 1", "stage 2"], ["stage 1", "stage 2"])
