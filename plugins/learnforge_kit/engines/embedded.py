"""Features of images, computed once for all episodes: where a method adapts the head alone, and the network
below it gives an image the same features in every episode, an episode needs the head alone.
"""

from __future__ import annotations

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.kinds.seen.engine import Engine, Parameters
from learnforge.kinds.seen.episodes import EpisodeSource
from learnforge_kit.data.episodes import ImageEpisodeSource
from learnforge_kit.data.passes import images_at_once
from learnforge_kit.engines.engine import NetworkEngine
from learnforge_kit.engines.vmap import VmapEngine


def embed_once(
    engine: Engine, meta: Parameters, source: EpisodeSource, episodes: int
) -> tuple[Engine, EpisodeSource]:
    """Return an engine of the head and a source of features, which give the scores that the whole network and
    its images would; those given where features depend on the episode, or the episodes show fewer images
    than there are.

    Args:
        engine: The network's.
        meta: What every episode starts from; the network below its head stays as it is there.
        source: Of the episodes.
        episodes: How many will be drawn.
    """
    if not isinstance(engine, NetworkEngine) or type(source) is not ImageEpisodeSource:
        return engine, source
    head, shape = engine.head_alone, source.shape
    shown = episodes * shape.ways * (shape.shots + shape.queries)
    if head is None or len(source.images) > shown:
        return engine, source
    size = images_at_once(source.images.shape[1:])
    with torch.inference_mode():
        features = torch.cat([engine.embed(meta, part) for part in source.images.split(size)])
    return VmapEngine(_Head(engine.head, head), engine.policy, engine.rules), evolve(source, images=features)


class _Head(nn.Module):
    """The head of a network, its parameters named as in the network."""

    def __init__(self, name: str, layer: nn.Module):
        super().__init__()
        *outer, last = name.split(".")
        place: nn.Module = self
        for part in outer:
            place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        place.add_module(last, layer)
        self.head_name = name

    def forward(self, features: Tensor) -> Tensor:
        """Return the outputs for features, [image, feature]."""
        outputs: Tensor = self.get_submodule(self.head_name)(features)
        return outputs
