"""Features that are computed once for all episodes give what the whole network gives."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from learnforge import EpisodeShape, Plugins
from learnforge_kit.data.episodes import ImageEpisodeSource
from learnforge_kit.engines.embedded import embed_once
from learnforge_kit.engines.loop import LoopEngine
from learnforge_kit.engines.normalisation import Policy

SHAPE = EpisodeShape(ways=3, shots=2, queries=4)


class Counting(nn.Conv2d):
    """Counts the images that pass, but for those of a vectorised call."""

    seen = 0

    def forward(self, images: Tensor) -> Tensor:
        """Convolve."""
        self.seen += len(images)
        return super().forward(images)


def make(policy: Policy = "running", normalised: bool = True) -> tuple[LoopEngine, dict[str, Tensor]]:
    """Return an engine of a small network in float64, and its parameters."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4) if normalised else nn.Identity()
    body = nn.Sequential(Counting(1, 4, 3), norm, nn.ReLU(), nn.Flatten())
    network = nn.ModuleDict({"body": body, "top": nn.Sequential(nn.Dropout(), nn.Linear(144, 3))})
    network = Joined(network).double()
    if normalised:
        body[1].running_mean.uniform_(-0.1, 0.1)  # type: ignore[operator, union-attr]
    return LoopEngine(network, policy), {n: p.detach() for n, p in network.named_parameters()}


class Joined(nn.Module):
    """A body and a head deeper down."""

    def __init__(self, parts: nn.ModuleDict):
        super().__init__()
        self.parts = parts

    def forward(self, images: Tensor) -> Tensor:
        """Return the head's outputs."""
        return self.parts["top"](self.parts["body"](images))


def source() -> ImageEpisodeSource:
    """Forty images of four classes."""
    images = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return ImageEpisodeSource.of(images, torch.arange(40) % 4, SHAPE, "test")


def adapted(name: str, engine: LoopEngine, meta: Mapping[str, Tensor], given: object) -> list[Tensor]:
    """Return the outputs of ten episodes after each step of a method's adaptation."""
    episodes = given.draw(3, torch.arange(10))  # type: ignore[attr-defined]
    method = Plugins().load("meta-learner", name)()
    steps = method.adapt(engine, meta, episodes.support)
    return [engine.predict(own, episodes.support, episodes.query(None)) for own in steps]


@pytest.mark.parametrize("name", ["protonet", "anil", "r2d2"])
@pytest.mark.parametrize(("policy", "normalised"), [("running", True), ("support", False)])
def test_heads_are_adapted_on_features_as_on_images(name: str, policy: Policy, normalised: bool) -> None:
    """After every step, in float64; each image passes the network once."""
    engine, meta = make(policy, normalised)
    method = Plugins().load("meta-learner", name)()
    meta |= {key: value.double() for key, value in method.extra_parameters(meta).items()}
    expected = adapted(name, engine, meta, source())
    network = engine._network.parts["body"][0]  # type: ignore[union-attr, index]
    network.seen = 0  # type: ignore[union-attr]
    lean, features = embed_once(engine, meta, source(), 10)
    assert network.seen == 40  # type: ignore[union-attr]
    found = adapted(name, lean, meta, features)  # type: ignore[arg-type]
    assert network.seen == 40  # type: ignore[union-attr]
    assert len(found) == len(expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_images_stay_where_features_depend_on_the_episode() -> None:
    """And where the episodes show fewer images than there are, or the network is but a head."""
    for policy in ("support", "transductive", "per-query"):
        engine, meta = make(policy)
        given = source()
        assert embed_once(engine, meta, given, 10) == (engine, given)
    engine, meta = make()
    assert embed_once(engine, meta, given, 2) == (engine, given)
    assert embed_once(engine, meta, given, 3)[0] is not engine

    class Own(ImageEpisodeSource):
        """May draw in a way of its own."""

    other = Own.of(given.images, torch.arange(40) % 4, SHAPE, "test")
    assert embed_once(engine, meta, other, 10) == (engine, other)
    linear = nn.Linear(4, 3)
    assert LoopEngine(linear, "running").head_alone is None
