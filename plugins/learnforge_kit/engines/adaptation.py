"""Episodes of a task, and teaching a meta-learnt artifact new classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.changes import apply_change
from learnforge.errors import ArtifactError
from learnforge.kinds.meta_learner import MetaLearner
from learnforge.kinds.seen.engine import FastWeights, Rules
from learnforge.kinds.seen.episodes import Labelled
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo
from learnforge_kit.engines.choice import ENGINES
from learnforge_kit.engines.engine import NetworkEngine
from learnforge_kit.engines.learner import LearnerOptions
from learnforge_kit.engines.normalisation import Policy
from learnforge_kit.networks.heads import NewHead, find_head

STEPS_FOR_MORE = 10
"""Steps at least for more classes than in meta-training."""


def adapt_artifact(
    artifact: Artifact,
    images: Tensor,
    labels: Tensor,
    plugins: Plugins,
    classes: Sequence[str] | None = None,
) -> Artifact:
    """Teach a meta-learnt artifact new classes from a few labelled images.

    Args:
        artifact: What a meta stage made.
        images: float [image, channel, height, width], normalised as the artifact's task says.
        labels: int64 [image], in [0, ways); every class must occur. For regression float [image, output].
        plugins: Where the meta-learner is looked up.
        classes: Names of the classes, also others in number than the artifact learns; see `with_ways`.

    Returns:
        An ordinary artifact whose network, in eval mode, tells these classes apart. Batch statistics are
        fixed to those of the support images, also where the policy was transductive, since a deployed network
        judges images one by one.

    Raises:
        ArtifactError: It is not meta-learnt, or images and labels do not fit it.
    """
    _adapter(artifact, plugins)
    if classes is not None:
        artifact = with_ways(artifact, classes, plugins)
    ways, shape = artifact.task.outputs, artifact.task.input_shape
    if tuple(images.shape[1:]) != shape or len(images) != len(labels):
        raise ArtifactError(
            f"images must be [{len(labels)}, {', '.join(map(str, shape))}], got {list(images.shape)}"
        )
    if artifact.task.form == "environment":
        raise ArtifactError("a policy adapts to rollouts, not to images; use `adapt_policy`")
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
    learner, network, engine, meta = ready_learner(artifact, plugins)
    support = Labelled(images[None], labels[None])
    adapted: FastWeights = learner.adapt(engine, meta, support)[-1]
    deployed = deploy_network(learner, engine, network, meta | adapted.of(0), support, artifact.task)
    return evolve(artifact, adapter={}, adapter_options={}).with_state(deployed)


def deploy_network(
    learner: MetaLearner,
    engine: NetworkEngine,
    network: nn.Module,
    adapted: Mapping[str, Tensor],
    support: Labelled,
    task: TaskInfo,
) -> nn.Module:
    """Return the network that stands for a task's adapted parameters by itself, in eval mode.

    Args:
        learner: The method.
        engine: Runs the network.
        network: The network, whose weights and batch statistics become the adapted ones.
        adapted: Meta-parameters and adapted parameters of the task.
        support: The support set, of one task.
        task: Its classes.

    Raises:
        ArtifactError: It does not predict as the method does.
    """
    parameters = {name: adapted[name] for name in engine.names}
    one = Labelled(support.images[0], support.labels[0])
    statistics = engine.measure_statistics(parameters, one.images)
    network.load_state_dict(network.state_dict() | parameters | statistics)
    with torch.no_grad():
        deployed = learner.deploy(engine, network.eval(), adapted, one, task).eval()
        given, wanted = deployed(one.images), learner.predict(engine, adapted, one, one.images)
    # the usual rule is the network's own; fixed statistics move its scores in deep networks
    is_usual = type(learner).predict is Rules.predict
    scale = float(wanted.abs().max())
    if given.shape != wanted.shape or not (is_usual or torch.allclose(given, wanted, 1e-2, 1e-2 * scale)):
        name = type(learner).__name__
        raise ArtifactError(
            f"{name}.deploy must return a network that predicts as {name}.predict does, but on the support "
            "images their outputs differ"
        )
    return deployed


def with_ways(artifact: Artifact, classes: Sequence[str], plugins: Plugins) -> Artifact:
    """Return a meta-learnt artifact that learns as many classes as there are names.

    Fewer classes take the first outputs of its head; more begin with the same outputs again, in turn, and are
    told apart by adaptation, which takes at least `STEPS_FOR_MORE` steps then, where the method takes steps.

    Args:
        artifact: What a meta stage made.
        classes: Names of the classes to come, at least two.
        plugins: Where the model is looked up.

    Raises:
        ArtifactError: It is no classifier, has no head of as many outputs as it has classes, or there is one
            name only.
    """
    if artifact.task.form != "classification":
        raise ArtifactError(f"only a classifier learns classes; this artifact's task is {artifact.task.form}")
    if len(classes) < 2:
        raise ArtifactError(f"there must be two classes at least to tell apart, got {list(classes)}")
    names, old = tuple(classes), artifact.task.outputs
    task = evolve(artifact.task, classes=names, origins=names)
    if len(names) == old:
        return evolve(artifact, task=task)
    network = artifact.network(plugins)
    head, (learner, _) = find_head(network, artifact.task), _adapter(artifact, plugins)
    parts = f"{head}.weight", f"{head}.bias"
    follow = {prefix + part for prefix in ("", *learner.shaped_as_weights) for part in parts}
    rows = torch.arange(len(names)) % old

    def resized(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: t[rows] if name in follow else t for name, t in tensors.items()}

    weights, adapter = resized(network.state_dict()), resized(artifact.adapter)
    spec = artifact.spec.as_changed(apply_change(network, NewHead(), task))
    known = LearnerOptions.of(artifact)
    assert known is not None, "`_adapter` refuses an artifact that has learnt nothing"
    if len(names) > old:
        known = evolve(known, meta_learner=_with_more_steps(known.meta_learner, learner))
    options = known.as_options()
    return evolve(
        artifact, spec=spec, task=task, weights=weights, adapter=adapter, adapter_options=options, made=None
    )


def _with_more_steps(table: Mapping[str, Any], learner: MetaLearner) -> Mapping[str, Any]:
    """Return the table of a meta-learner with steps enough for more classes."""
    if not hasattr(learner, "adaptation_steps"):
        return table
    known = learner.adaptation_steps
    steps = getattr(learner, "inner_steps", 1) if known is None else known
    return {**table, "adaptation_steps": max(steps, STEPS_FOR_MORE)}


def ready_learner(
    artifact: Artifact, plugins: Plugins
) -> tuple[MetaLearner, nn.Module, NetworkEngine, dict[str, Tensor]]:
    """Return what adapting takes: the meta-learner, the network, an engine for it, and the meta-parameters.

    Images are judged one by one, as a deployed network must, whatever the policy in meta-training.
    """
    learner, policy = _adapter(artifact, plugins)
    network = artifact.network(plugins)
    engine = ENGINES["loop"](network, policy if policy == "running" else "support", learner)
    meta = {name: p.detach() for name, p in network.named_parameters()} | dict(artifact.adapter)
    return learner, network, engine, meta


def _adapter(artifact: Artifact, plugins: Plugins) -> tuple[MetaLearner, Policy]:
    """Return the meta-learner that an artifact was made with, and whose batch statistics it took."""
    options = LearnerOptions.of(artifact)
    if options is None:
        raise ArtifactError("only what a `meta` stage made can adapt; this artifact has no adapter")
    learner = plugins.resolve("meta-learner", options.meta_learner, "meta-learner", [])
    if learner is None:
        use = options.meta_learner["use"]
        raise ArtifactError(f"the meta-learner {use!r} of this artifact is not installed")
    return learner, options.normalisation
