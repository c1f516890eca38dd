"""The parabola that gradients of meta-learners are worked out on by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learnforge import Labelled, MetaGradient
from learnforge.kinds.seen.engine import Engine, Rules
from learnforge_kit import ImageEpisodes
from learnforge_kit.engines.choice import ENGINES


class Slope(nn.Module):
    """y = w · x, the network whose losses are parabolas in w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.w * inputs


class Squares(Rules):
    """Half the squared error, so that the support loss of one point (x, y) is (w x - y)² / 2."""

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * (outputs[:, 0] - labels).square().mean()

    query_loss = support_loss


def points(*points: tuple[float, float]) -> Labelled:
    """One point (x, y) for each task."""
    both = torch.tensor(points, dtype=torch.float64)
    return Labelled(both[:, :1, None], both[:, 1:])


@pytest.fixture(params=["loop", "vmap"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Both engines, on the network y = w x with squared errors."""
    return ENGINES[request.param](Slope(), "support", Squares())


def gradient_of(
    method: Any,
    engine: Engine,
    w: float,
    support: Labelled,
    query: Labelled,
    extra: Mapping[str, Tensor] | None = None,
) -> MetaGradient:
    """Return the meta-gradient at w."""
    episodes = ImageEpisodes(support, query, torch.zeros(len(support.labels), 1, dtype=torch.int64))
    own = {"w": torch.tensor(w, dtype=torch.float64)}
    parameters = {**own, **method.carried_state(own), **(extra or {})}
    found = method.gradient(engine, parameters, episodes)
    assert isinstance(found, MetaGradient)
    return found
