"""Where the knowledge comes from: a source network made to take the new task's images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.context import Context
from learnforge.errors import ArtifactError, LearnforgeError
from learnforge.kinds.model import Model
from learnforge.kinds.transfer import DirectTransfer, Transfer
from learnforge.plugins.identity import spell
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo, find_mismatches, join_faults
from learnforge_kit.networks.heads import describe_changes, find_head, find_stem, replace_stem


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
    weights = source.skeleton(plugins).state_dict() if source.module is None else {}
    try:
        network = source.skeleton(plugins, _seen_as(source.task, task))
        with torch.device("meta"):
            reason = _refusal(network, weights, task)
    except ArtifactError as error:
        reason = str(error)
    want, got = list(task.input_shape), list(source.task.input_shape)
    return reason and (
        f"must take images of shape {want} as the task has; it was made for {got} and cannot be carried "
        f"over: {reason}"
    )


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


def _refusal(network: nn.Module, weights: Mapping[str, Tensor], task: TaskInfo) -> str:
    """Return why a network on the meta device cannot take a task's images, or ""."""
    try:
        _transplant(network, weights, task.input_shape[0])
        network.eval()(torch.zeros(2, *task.input_shape))
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
            replace_stem(network, new[0])
    else:
        trained = source.network(context.plugins, seed).state_dict()
        network = evolve(source, weights=None).network(context.plugins, seed, _seen_as(source.task, task))
        _transplant(network, trained, new[0])
    changes = describe_changes((old[0], 0), (new[0], 0))
    changes += [f"images {_extent(old)} → {_extent(new)}"] if old[1:] != new[1:] else []
    if source.weights is None and source.spec.kind == "model":
        model = context.plugins.resolve("model", source.spec.table, "from", [])
        changes += model.changes(task) if isinstance(model, Model) else []
    return network, changes


def head_weight(network: nn.Module, outputs: int) -> Tensor | None:
    """Return the weight of a network's head, or None where it has none of its own."""
    try:
        return network.get_submodule(find_head(network, outputs)).get_parameter("weight")
    except (ArtifactError, AttributeError):
        return None


def _transplant(network: nn.Module, weights: Mapping[str, Tensor], channels: int) -> None:
    """Load weights made for other images; nothing, where there are none, but the stem is replaced."""
    if not weights:
        replace_stem(network, channels)
        return
    stem = f"{find_stem(network)}.weight"
    loaded = {
        name: _averaged(tensor, channels) if name == stem else tensor for name, tensor in weights.items()
    }
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
    return evolve(old, input_shape=new.input_shape, mean=new.mean, std=new.std)


def _extent(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} × {shape[2]}"
