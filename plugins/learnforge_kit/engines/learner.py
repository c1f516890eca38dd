"""What a learner starts from: its episodes, its network, and the options that go with what it has learnt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import asdict, frozen
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.changes import apply_change
from learnforge.kinds.meta_learner import MetaLearner
from learnforge.kinds.seen.engine import Engine, FastWeights
from learnforge.kinds.seen.episodes import Episodes, EpisodeShape, EpisodeSource
from learnforge.kinds.task import Split, Task
from learnforge.spec import TaskInfo
from learnforge_kit.data.episodes import ImageEpisodeSource
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.engines.normalisation import Policy
from learnforge_kit.networks.heads import NewHead


def episode_source(task: Task, name: str, shape: EpisodeShape, device: torch.device) -> EpisodeSource:
    """Return where episodes of a split come from: the task's own source, or its images, held on the device.

    Args:
        task: The task.
        name: `train`, `validation` or `test`.
        shape: Size of an episode.
        device: Where the episodes are made.
    """
    if task.episodes is not None:
        return task.episodes(name, shape, device)
    split: Split = getattr(task, name)
    normalise = Normaliser(task.info, device)
    parts = [normalise(images) for images, _, _ in split.batches(torch.arange(len(split)), 1024)]
    return ImageEpisodeSource.of(torch.cat(parts), split.labels, shape, name)


def prepare_network(learner: MetaLearner, network: nn.Module, episode: TaskInfo) -> nn.Module:
    """Return the network that a meta-learner learns with: with a fresh head for an episode's classes, unless
    it keeps the one there is, and what it adds itself. The given one is changed.

    Args:
        learner: The method.
        network: The network.
        episode: The task of an episode.
    """
    if not learner.keeps_head:
        network = apply_change(network, NewHead(), episode)
    return learner.prepare(network, episode)


@frozen
class LearnerOptions:
    """What the artifact of a meta stage says of how it learnt, and so of how it adapts.

    Args:
        meta_learner: The method, as a recipe would write it.
        episodes: Size of an episode.
        normalisation: Whose batch statistics normalised the query.
        engine: The engine that computed; "" before the stage has run.
    """

    meta_learner: Mapping[str, Any]
    episodes: EpisodeShape
    normalisation: Policy = "support"
    engine: str = ""

    @classmethod
    def of(cls, artifact: Artifact) -> LearnerOptions | None:
        """Read them from an artifact; None where it has not learnt to learn."""
        options = artifact.adapter_options
        if "meta_learner" not in options:
            return None
        episodes = EpisodeShape(**options.get("episodes", {}))
        policy, engine = options.get("normalisation", "support"), options.get("engine", "")
        return cls(options["meta_learner"], episodes, policy, engine)

    def as_options(self) -> dict[str, Any]:
        """Return them as an artifact keeps them."""
        return {
            "meta_learner": dict(self.meta_learner),
            "normalisation": self.normalisation,
            "engine": self.engine,
            "episodes": asdict(self.episodes),
        }


def begin(episodes: Episodes, engine: Engine, meta: Mapping[str, Tensor]) -> Episodes:
    """Tell a batch of episodes which network is adapted.

    Args:
        episodes: As drawn.
        engine: Runs the network.
        meta: Meta-parameters, shared by all tasks.
    """
    return episodes.begin(
        lambda parameters, images: engine.run(FastWeights(parameters), images),
        {name: meta[name] for name in engine.names},
    )
