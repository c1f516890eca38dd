"""Transfer strategies by name, and a network to carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learnforge import Plugins
from learnforge.options.structure import build


class Net(nn.Module):
    """A body with batch statistics, and a head."""

    def __init__(self, outputs: int, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Linear(16, outputs)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(images).flatten(1))
        return scores


@pytest.fixture
def make(plugins: Plugins) -> Callable[..., Any]:
    """Make a strategy from its name and options."""
    return lambda name, **options: build(plugins.load("transfer", name), options, "test", plugins.resolve)


@pytest.fixture
def net() -> type[Net]:
    """The network's class."""
    return Net
