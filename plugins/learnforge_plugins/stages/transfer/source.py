"""Where the knowledge comes from: a source network made to take the new task's images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.changes import apply_change
from learnforge.check import scores_fault
from learnforge.context import Context
from learnforge.errors import ArtifactError, LearnforgeError, Problem, StageError
from learnforge.kinds.model import Model
from learnforge.kinds.transfer import DirectTransfer, Phase, PhasedTransfer, Transfer
from learnforge.plugins.identity import spell
from learnforge.plugins.registry import Plugins
from learnforge.randomness import preserved, uncompiled
from learnforge.spec import TaskInfo, find_mismatches, join_faults
from learnforge_kit.networks.heads import find_heads, in_eval_mode
from learnforge_kit.networks.layers import device_of
from learnforge_kit.networks.modules import skeleton
from learnforge_kit.networks.stems import NewStem, describe_changes, find_stem, replace_stem


def source_refusal(source: Artifact, task: TaskInfo, plugins: Plugins) -> str:
    """Say, computing nothing, why a source cannot take a task's images, or "".

    Args:
        source: The source, whose network is known; perhaps a stand-in without weights.
        task: The new task.
        plugins: Where its model or space is looked up.

    Raises:
        ArtifactError: The source cannot be built for its own task.
    """
    if source.task.input_shape == task.input_shape:
        return ""
    weights = skeleton(source, plugins).state_dict() if source.module is None else {}
    try:
        network = skeleton(source, plugins, _seen_as(source.task, task))
        with preserved(), device_of(network):
            reason = _refusal(network, weights, source.task.input_shape, task.input_shape)
    except ArtifactError as error:
        reason = str(error)
    want, got = list(task.input_shape), list(source.task.input_shape)
    return reason and (
        f"must take images of shape {want} as the task has; it was made for {got} and cannot be carried "
        f"over: {reason}"
    )


def method_problems(
    method: Transfer,
    source: Artifact,
    task: TaskInfo,
    plugins: Plugins,
    share: Callable[[Sequence[Phase]], object],
) -> list[Problem]:
    """Find why a method refuses to make a source ready, and what is wrong with its phases, to which `share`
    gives their epochs; what only shows with weights shows later.
    """
    if source.module is not None:  # torch's parametrizations share a class with their copies
        return []
    path = "from"
    try:
        network = skeleton(source, plugins, _seen_as(source.task, task))
        with preserved(), device_of(network):
            network = method.prepare(network, source.task, task)
            if isinstance(method, PhasedTransfer):
                phases = method.phases(network, source.task, task)
                path = "train.epochs"
                share(phases)
    except Exception as error:  # there is nothing to compute with on torch's device `meta`
        return [Problem(path, str(error))] if isinstance(error, StageError) else []
    return []


def untrained_words(method: Transfer, source: Any, task: TaskInfo) -> str:
    """Say what is wrong where a method that learns no label is given a source that knows nothing, or ""."""
    needs_knowledge = isinstance(method, DirectTransfer) and not method.uses_labels
    if not needs_knowledge or not isinstance(source, Model):
        return ""
    try:
        knows = source.is_trained_for(task)
    except LearnforgeError:  # reported where models are checked
        return ""
    name = spell(method)["use"]
    words = "without weights for them; give a stage, an artifact's folder, or a model with weights"
    return "" if knows else f"must know the classes, which {name} does not learn, but is a model {words}"


def _refusal(
    network: nn.Module, weights: Mapping[str, Tensor], old: tuple[int, ...], new: tuple[int, ...]
) -> str:
    """Return why a network on the meta device cannot take images of another shape, or ""."""
    try:
        _transplant(network, weights, old, new)
        network.eval()(torch.zeros(2, *new))
    except ArtifactError as error:
        return str(error)
    except Exception as error:  # whatever a stranger's network raises about the images
        return f"{type(error).__name__}: {error}"
    return ""


def load_source(source: Artifact, task: TaskInfo, context: Context) -> tuple[nn.Module, list[str]]:
    """Build a source network with its weights, for the new task's images and with the old head.

    Another number of channels is met in the first convolution, whose weights are averaged over the old
    channels; another height and width by networks that take any, or have no weights that depend on it.

    Returns:
        The network, and what had to be changed, in words.

    Raises:
        ArtifactError: Weights depend on height and width.
    """
    old, new = source.task.input_shape, task.input_shape
    seed = context.derive("source")
    if old == new or source.spec.kind == "module":
        network = source.network(context.plugins, seed)
        if old[0] != new[0]:
            network = apply_change(network, NewStem(old[0]), task)
    else:
        trained = source.network(context.plugins, seed).state_dict()
        network = evolve(source, weights=None).network(context.plugins, seed, _seen_as(source.task, task))
        _transplant(network, trained, old, new)
    changes = describe_changes((old[0], 0), (new[0], 0))
    changes += [f"images {_extent(old)} → {_extent(new)}"] if old[1:] != new[1:] else []
    if source.weights is None and source.spec.kind == "model":
        model = context.plugins.resolve("model", source.spec.table, "from", [])
        changes += model.changes(task) if isinstance(model, Model) else []
    return network, changes


def head_weights(network: nn.Module, task: TaskInfo) -> list[Tensor]:
    """Return the weights of a network's heads; none where it has no head of its own."""
    try:
        return [network.get_submodule(name).get_parameter("weight") for name in find_heads(network, task)]
    except (ArtifactError, AttributeError):
        return []


def require_scores(network: nn.Module, task: TaskInfo, who: str) -> None:
    """Refuse a network that does not give scores for a task's classes.

    Raises:
        StageError: It gives something else.
    """
    images = torch.zeros(2, *task.input_shape, device=device_of(network))
    with in_eval_mode(network), torch.no_grad(), uncompiled():
        fault = scores_fault(network(images), task)
    if fault:
        raise StageError(f"the network that {who} makes ready {fault}")


def _transplant(
    network: nn.Module, weights: Mapping[str, Tensor], old: tuple[int, ...], new: tuple[int, ...]
) -> None:
    """Load weights made for images of another shape; where there are none, replace the stem."""
    if not weights:
        replace_stem(network, (old[0], *new[1:]), new[0])
        return
    stem = f"{find_stem(network, new)}.weight"
    loaded = {name: _averaged(tensor, new[0]) if name == stem else tensor for name, tensor in weights.items()}
    faults = find_mismatches(network, loaded)
    if faults:
        raise ArtifactError(f"weights depend on height and width: {join_faults(faults)}")
    network.load_state_dict(loaded)


def _averaged(weight: Tensor, channels: int) -> Tensor:
    """Return a first convolution's weight for another number of channels, its sum over them unchanged."""
    if weight.ndim != 4 or weight.shape[1] == channels:
        return weight
    return weight.mean(1, keepdim=True).expand(-1, channels, -1, -1) * (weight.shape[1] / channels)


def _seen_as(old: TaskInfo, new: TaskInfo) -> TaskInfo:
    """Return the old task as if its images were the new task's."""
    return evolve(old, input_shape=new.input_shape, mean=new.mean, std=new.std, inputs=new.inputs)


def _extent(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} × {shape[2]}"
