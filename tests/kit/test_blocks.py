"""Blocks: every parameter in one, containers opened, what belongs together left whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from learnforge_kit import find_blocks


def test_containers_are_opened_and_layers_without_weights_passed_over() -> None:
    """Sequences of layers fall apart into layers, in order."""
    inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3))
    network = nn.Sequential(inner, nn.Flatten(), nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 2))
    assert find_blocks(network) == ["0.0", "0.2", "2.0", "3"]


class Block(nn.Module):
    """A block with two layers and a weight of its own."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)


def test_a_part_with_most_of_the_parameters_is_opened() -> None:
    """A module that holds more than half is no block, its own weights are one; smaller ones stay whole."""
    network = nn.Module()
    network.small, network.large = Block(2), Block(20)
    assert find_blocks(network) == ["small", "large.scale", "large.first", "large.second"]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet18", 11), ("mobilenet_v3_small", 15), ("vit_b_16", 17), ("efficientnet_b0", 19)],
)
def test_networks_of_torchvision(name: str, blocks: int) -> None:
    """Residual blocks, inverted residuals and encoder layers are blocks; each parameter is in exactly one."""
    from torchvision import models

    with torch.device("meta"):
        network = models.get_model(name)
    found = find_blocks(network)
    assert len(found) == blocks
    for parameter, _ in network.named_parameters():
        assert sum(parameter == b or parameter.startswith(f"{b}.") for b in found) == 1
