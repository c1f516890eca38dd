"""Features: those of a layer, in order and in eval mode, in memory or mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from learnforge import StageError, Task, extract_features
from learnforge import features as features_module
from learnforge.evaluation import Normaliser


@pytest.fixture
def network() -> nn.Module:
    """A network with dropout, batch statistics and an embedding of four features."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(body, nn.Dropout(0.5), nn.Linear(4, 3))


def test_features_are_those_of_the_layer(network: nn.Module, task: Task) -> None:
    """The embedding is what goes into the head; maps of other layers are averaged."""
    images = Normaliser(task.info, torch.device("cpu"))(task.train.images)  # type: ignore[attr-defined]
    network.train()
    found = extract_features(network, task.train, task.info, batch_size=7)
    with torch.no_grad():
        torch.testing.assert_close(found, network[0](images))
        maps = extract_features(network, task.train, task.info, "0.0")
        torch.testing.assert_close(maps, network[0][0](images).mean((2, 3)))  # type: ignore[index]
    assert not network.training


def test_large_features_lie_in_a_mapped_file_that_goes_with_them(
    network: nn.Module, task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit they are mapped, with the same values, and nothing is left in the folder."""
    plain = extract_features(network, task.train, task.info, folder=tmp_path)
    monkeypatch.setattr(features_module, "IN_MEMORY_BYTES", 100)
    made: list[object] = []
    memmap = np.memmap

    def spy(*given: object, **named: object) -> object:
        made.append(given)
        return memmap(*given, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(np, "memmap", spy)
    mapped = extract_features(network, task.train, task.info, folder=tmp_path / "new")
    assert len(made) == 1
    assert torch.equal(mapped, plain)
    assert list((tmp_path / "new").iterdir()) == []


def test_unknown_layers_are_named(network: nn.Module, task: Task) -> None:
    """As everywhere, with the list; and nobody listens to the network afterwards."""
    with pytest.raises(StageError, match="Sequential has no layer 'heda'"):
        extract_features(network, task.train, task.info, "heda")
    assert not any(module._forward_hooks for module in network.modules())
