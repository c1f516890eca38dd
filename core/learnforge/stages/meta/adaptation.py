"""Episodes of a task, and teaching a meta-learnt artifact new classes."""

from __future__ import annotations

import torch
from attrs import evolve
from torch import Tensor

from learnforge.artifact import Artifact
from learnforge.episodes import EpisodeShape, EpisodeSource, ImageEpisodeSource, Labelled
from learnforge.errors import ArtifactError
from learnforge.evaluation import Normaliser
from learnforge.plugins import Plugins
from learnforge.stages.meta.engine import FastWeights
from learnforge.stages.meta.normalisation import Policy
from learnforge.stages.meta.roads import ENGINES
from learnforge.task import MemorySplit, Split, Task


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
    parts = [(images, labels) for images, labels, _ in split.batches(torch.arange(len(split)), 1024)]
    held = MemorySplit(torch.cat([i for i, _ in parts]), torch.cat([labels for _, labels in parts]))
    return ImageEpisodeSource.from_split(held, Normaliser(task.info, device)(held.images), shape, name)


def adapt_artifact(artifact: Artifact, images: Tensor, labels: Tensor, plugins: Plugins) -> Artifact:
    """Teach a meta-learnt artifact new classes from a few labelled images.

    Args:
        artifact: What a meta stage made.
        images: float [image, channel, height, width], normalised as the artifact's task says.
        labels: int64 [image], in [0, ways); every class must occur. For regression float [image, output].
        plugins: Where the meta-learner is looked up.

    Returns:
        An ordinary artifact whose network, in eval mode, tells these classes apart. Batch statistics are
        fixed to those of the support images, also where the policy was transductive, since a deployed network
        judges images one by one.

    Raises:
        ArtifactError: It is not meta-learnt, or images and labels do not fit it.
    """
    options = artifact.adapter_options
    if "meta_learner" not in options:
        raise ArtifactError("only what a `meta` stage made can adapt; this artifact has no adapter")
    ways, shape = artifact.task.outputs, artifact.task.input_shape
    if tuple(images.shape[1:]) != shape or len(images) != len(labels):
        raise ArtifactError(
            f"images must be [{len(labels)}, {', '.join(map(str, shape))}], got {list(images.shape)}"
        )
    if artifact.task.form != "classification":
        if not labels.is_floating_point() or tuple(labels.shape) != (len(images), ways):
            raise ArtifactError(
                f"targets must be float [{len(images)}, {ways}], got {labels.dtype} {list(labels.shape)}"
            )
    elif sorted(set(labels.tolist())) != list(range(ways)):
        raise ArtifactError(
            f"labels must use each of 0 to {ways - 1} (the artifact learns {ways} ways), got "
            f"{labels.tolist()}"
        )
    learner = plugins.resolve("meta-learner", options["meta_learner"], "meta-learner", [])
    if learner is None:
        raise ArtifactError(
            f"the meta-learner {options['meta_learner']['use']!r} of this artifact is not installed"
        )
    policy: Policy = options["normalisation"]
    network = artifact.network(plugins)
    engine = ENGINES["loop"](network, policy if policy == "running" else "support", learner)
    meta = {name: p.detach() for name, p in network.named_parameters()} | dict(artifact.adapter)
    support = Labelled(images[None], labels[None])
    adapted: FastWeights = learner.adapt(engine, meta, support)[-1]
    parameters = adapted.of(0)
    state = network.state_dict() | parameters | engine.measure_statistics(parameters, images)
    network.load_state_dict(state)
    return evolve(artifact, adapter={}, adapter_options={}).with_state(network.eval())
