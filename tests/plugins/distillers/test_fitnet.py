"""Hints: the square by hand, the connectors, and which layers are paired."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Outputs, StageError
from learnforge.kinds.seen.network import Layers
from learnforge_kit.networks.layers import read_layers

LEVEL = torch.zeros(1, 2)


def _outputs(**taps: Any) -> Outputs:
    return Outputs(LEVEL, {name: torch.tensor(value) for name, value in taps.items()})


def test_loss_worked_by_hand(make: Any, batch_of: Any) -> None:
    """2 · 3 + 1 misses 5 by 2; a second pair misses by 4: the mean square is (4 + 16) / 2."""
    method = make("fitnet", pairs={"a": "c", "b": "d"}, weight=3.0, labels=2.0)
    student, teacher = _outputs(a=[[[[3.0]]]], b=[[3.0]]), _outputs(c=[[[[5.0]]]], d=[[3.0]])
    criterion = method.criterion(student, teacher, None)
    for connector in criterion.connectors:
        nn.init.constant_(connector.map.weight, 2.0)
        nn.init.ones_(connector.map.bias)
    found = criterion(student, teacher, batch_of([1]))
    assert found.item() == pytest.approx(2 * math.log(2.0) + 3 * (4 + 16) / 2, rel=1e-6)


def test_the_larger_map_is_averaged_down(make: Any, batch_of: Any) -> None:
    """A student's 2 × 2 pixels meet the teacher's single one by their mean, 2.5."""
    method = make("fitnet", pairs={"a": "b"}, weight=1.0, labels=0.0)
    student, teacher = _outputs(a=[[[[1.0, 2.0], [3.0, 4.0]]]]), _outputs(b=[[[[1.5]]]])
    criterion = method.criterion(student, teacher, None)
    nn.init.ones_(criterion.connectors[0].map.weight)
    nn.init.zeros_(criterion.connectors[0].map.bias)
    assert criterion(student, teacher, batch_of([0])).item() == pytest.approx(1.0)


def _network(*widths: int) -> Layers:
    layers: list[nn.Module] = []
    inside = 1
    for width in widths:
        layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        inside = width
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 3))
    return read_layers(network, torch.zeros(1, 1, 16, 16))


def test_the_middle_stages_are_paired_by_default(make: Any) -> None:
    """Stages pair from the last backwards, and the middle pair is taken; pairs of one's own replace it."""
    student, teacher = _network(2, 3), _network(4, 5, 6)
    assert make("fitnet").taps(student, teacher) == (["stage 2"], ["stage 3"])
    assert make("fitnet", pairs={"0": "stage -1"}).taps(student, teacher) == (["0"], ["stage -1"])


def test_networks_without_stages_are_refused(make: Any) -> None:
    """A network without feature maps needs pairs by name; the error lists its layers."""
    flat = nn.Sequential(nn.Flatten(), nn.Linear(256, 4), nn.ReLU(), nn.Linear(4, 3))
    layers = read_layers(flat, torch.zeros(1, 1, 16, 16))
    with pytest.raises(StageError, match=r"the student Sequential has no stages.*Layers: 0, 1, 2, 3"):
        make("fitnet").taps(layers, _network(2, 2))
    assert make("fitnet", pairs={"1": "embedding"}).taps(layers, _network(2, 2)) == (["1"], ["embedding"])


def test_connectors_train_with_the_student(make: Any, batch_of: Any) -> None:
    """The hint's gradient reaches connector and student, and not the teacher."""
    method = make("fitnet", pairs={"a": "b"}, labels=0.0)
    own = torch.ones(2, 3, 4, 4, requires_grad=True)
    known = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    student, teacher = Outputs(torch.zeros(2, 2), {"a": own}), Outputs(torch.zeros(2, 2), {"b": known})
    criterion = method.criterion(student, teacher, None)
    criterion(student, teacher, batch_of([0, 1])).backward()
    assert own.grad is not None
    assert all(parameter.grad is not None for parameter in criterion.parameters())
    assert criterion.connectors[0].map.weight.shape == (5, 3, 1, 1)
    assert not known.requires_grad
