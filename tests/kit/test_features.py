"""Features: those of a layer, in order and in eval mode, in memory or mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learnforge import ArtifactError, StageError, Task
from learnforge_kit import cut_at, extract_features
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.networks import features as features_module


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


def test_a_cut_network_gives_the_layers_features_to_a_head(network: nn.Module, task: Task) -> None:
    """The head takes the averaged output of the layer; what comes after it is gone."""
    cut = cut_at(network, "0.0", task.info)
    images = Normaliser(task.info, torch.device("cpu"))(task.train.images)  # type: ignore[attr-defined]
    with torch.no_grad():
        wanted = cut.head(network[0][0](images).mean((2, 3)))  # type: ignore[index]
        torch.testing.assert_close(cut(images), wanted)
    assert set(cut.state_dict()) == {"body.0.0.weight", "body.0.0.bias", "head.weight", "head.bias"}
    assert cut.head.out_features == task.info.outputs


def test_a_cut_network_is_cut_again_further_in_front(network: nn.Module, task: Task) -> None:
    """By the names of the network that it is now."""
    first = cut_at(network, "0.1", task.info)
    again = cut_at(first, "body.0.0", task.info)
    assert again.layer == "0.0"
    assert set(again.state_dict()) == {"body.0.0.weight", "body.0.0.bias", "head.weight", "head.bias"}


class Winding(nn.Module):
    """A network whose way depends on what it is given, which nothing can trace."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        if images.sum() > 0:
            images = -images
        scores: Tensor = self.head(self.first(images).mean((2, 3)))
        return scores


def test_a_network_that_cannot_be_cut_is_refused(network: nn.Module, task: Task) -> None:
    """A network that torch.fx does not trace, what goes into a layer, and a layer that is not there."""
    with pytest.raises(
        ArtifactError, match=r"Winding cannot end at 'first', since torch\.fx does not trace it that far"
    ):
        cut_at(Winding(), "first", task.info)
    with pytest.raises(StageError, match="ends at what a layer puts out; 'embedding' is what goes into one"):
        cut_at(network, "embedding", task.info)
    with pytest.raises(StageError, match="Sequential has no layer 'heda'"):
        cut_at(network, "heda", task.info)
