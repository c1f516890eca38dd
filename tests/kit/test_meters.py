"""Layers' signatures and timings."""

from __future__ import annotations

import torch
from torch import nn

from learnforge import TaskInfo
from learnforge_kit import layer_signatures
from learnforge_kit.costs.layers import time_layers

INFO = TaskInfo("task", ("a", "b"), ("a", "b"), (3, 8, 8), (0.5,) * 3, (0.25,) * 3)


def network() -> nn.Module:
    shared = nn.ReLU()
    return nn.Sequential(
        nn.Conv2d(3, 6, (3, 1), stride=2, groups=3),
        shared,
        nn.Sequential(nn.Flatten(), nn.Linear(72, 2)),
        shared,
    )


def test_signatures_by_hand() -> None:
    """Type, shapes without the batch, kernel, stride and groups, in the order in which layers run."""
    expected = [
        "Conv2d 3x8x8 > 6x3x4 k3x1 s2x2 g3",
        "ReLU 6x3x4 > 6x3x4",
        "Flatten 6x3x4 > 72",
        "Linear 72 > 2",
        "ReLU 2 > 2",
    ]
    assert layer_signatures(network(), INFO) == expected
    with torch.device("meta"):
        assert layer_signatures(network(), INFO) == expected


def test_layers_are_timed_once() -> None:
    """Each signature has a positive time; those that are known are not timed again."""
    found = time_layers(network(), INFO, known={"Linear 72 > 2": 1.0})
    assert set(found) == set(layer_signatures(network(), INFO)) - {"Linear 72 > 2"}
    assert all(milliseconds > 0 for milliseconds in found.values())


def test_hooks_are_removed_and_the_mode_is_put_back() -> None:
    """A network is left as it was."""
    own = network().train()
    layer_signatures(own, INFO)
    assert own.training
    assert not any(layer._forward_hooks for layer in own.modules())
