"""What must fit before anything is trained: callers' modules their task, changed networks their record."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from attrs import evolve
from torch import nn

from learnforge.artifact import Artifact
from learnforge.check import first_line, scores_fault, trial_device
from learnforge.errors import ArtifactError, LearnforgeError, Problem, StageError
from learnforge.kinds.model import Model
from learnforge.kinds.stage import Stage
from learnforge.plugins.registry import Plugins
from learnforge.randomness import preserved, seeded, uncompiled
from learnforge.rebuilding import WAY_OUT
from learnforge.spec import TaskInfo, find_mismatches, join_faults


def check_modules(stage: Stage, inputs: Mapping[str, Artifact], may_differ: bool = False) -> list[Problem]:
    """Find modules of the caller's that cannot be trained, or do not fit their task.

    Args:
        stage: The stage that takes them.
        inputs: Its inputs.
        may_differ: Let them have another number of outputs, since they get a new head.
    """
    return [
        Problem(stage.input_path(role), f"the module {artifact.spec.table['use']} {fault}")
        for role, artifact in inputs.items()
        if artifact.module is not None
        and not artifact.spec.changes
        and (fault := module_fault(artifact.module, artifact.task, may_differ))
    ]


def module_fault(module: nn.Module, task: TaskInfo, may_differ: bool = False) -> str:
    """Say why a caller's module cannot serve for a task, or "".

    Args:
        module: The module; it is copied, not run.
        task: The task.
        may_differ: Let it have another number of outputs, since it gets a new head.
    """
    parameters = list(module.parameters())
    kinds = sorted({str(p.dtype) for p in parameters if p.is_floating_point()})
    if not kinds:
        return "has no parameters, so nothing can be trained"
    if kinds != ["torch.float32"]:
        return f"must have parameters of type float32, it has {', '.join(kinds)}; call `.float()` on it"
    try:
        copied = copy.deepcopy(module)
    except Exception as error:  # whatever a stranger's module raises
        return (
            f"cannot be copied: {first_line(error)}. If it has weights that are computed from others, take "
            "`torch.nn.utils.parametrizations.weight_norm` in the place of `torch.nn.utils.weight_norm`"
        )
    images = torch.zeros(2, *task.input_shape, device=parameters[0].device)
    for is_training in (True, False):
        mode = "training" if is_training else "eval"
        try:
            with preserved(), torch.no_grad(), uncompiled():
                scores = copied.train(is_training)(images)
        except Exception as error:
            shape = list(task.input_shape)
            return f"must take images of shape {shape}, in {mode} mode it fails with {first_line(error)}"
        fault = scores_fault(scores, task, may_differ)
        if fault:
            return f"{fault} in {mode} mode"
    return ""


def require_recorded(artifact: Artifact, network: nn.Module, plugins: Plugins, who: str) -> None:
    """Refuse, before it is trained, a network with layers that its artifact would not build again.

    Args:
        artifact: What the network was built from; the changes that were made to it since are its own record.
        network: The network, ready to be trained.
        plugins: Where models, spaces and changes are looked up.
        who: What made it ready, for the error.

    Raises:
        StageError: A change is not written down.
    """
    if not artifact.is_buildable:
        return
    planned = evolve(artifact, spec=artifact.spec.as_changed(network), weights=None)
    try:
        again = planned.network(plugins, task=artifact.task)
    except LearnforgeError as error:
        raise StageError(f"{who} makes a network that cannot be built again: {error}") from error
    faults = find_mismatches(again, network.state_dict())
    if faults:
        raise StageError(
            f"{who} makes a network that its artifact does not build again: {join_faults(faults)}. {WAY_OUT}"
        )


def skeleton(artifact: Artifact, plugins: Plugins, task: TaskInfo | None = None) -> nn.Module:
    """Return an artifact's network to look at, where `trial_device` says, with shapes and not its weights; of
    a module of the caller's a copy where it is, since tensors that are no buffers would not follow it there.

    Args:
        artifact: The artifact.
        plugins: Where the model or space is looked up.
        task: Build for this task instead.

    Raises:
        ArtifactError: The network cannot be built.
    """
    try:
        if artifact.module is not None:
            return evolve(artifact, weights=None).network(plugins, task=task)
        target = task or artifact.task
        with seeded(0), trial_device(target):
            return artifact.spec.build(target, plugins, False)
    except LearnforgeError:
        raise
    except Exception as error:  # whatever a plugin's own code raises
        raise ArtifactError(f"{artifact.spec.table['use']} cannot be built: {first_line(error)}") from error


def build_failure(stage: Stage, role: str, error: Exception) -> list[Problem]:
    """Report that the network of an input fails; nothing for a model that the stage itself names, which the
    core reports.
    """
    if isinstance(stage.describe_inputs().get(role), Model):
        return []
    reason = str(error) if isinstance(error, LearnforgeError) else first_line(error)
    return [Problem(stage.input_path(role), f"the network must take the task's images, but: {reason}")]


_READ_ALIKE = ("form", "inputs", "target_mean", "target_std", "reading")
"""What of a task decides what a network's numbers mean, beside shape and classes."""


def check_fit(role: str, own: TaskInfo, task: TaskInfo) -> list[Problem]:
    """Find out why a network made for one task cannot be used on another as it is.

    Args:
        role: The input's key, for the problems' path.
        own: The task that the network was made for.
        task: The task to use it on.
    """
    if own.input_shape != task.input_shape:
        want, got = list(task.input_shape), list(own.input_shape)
        return [Problem(role, f"must take images of shape {want} as the task has, it takes {got}")]
    different = [name for name in _READ_ALIKE if getattr(own, name) != getattr(task, name)]
    if different:
        words = "must have learnt from data that are read and scaled as the task's are, it learnt another"
        return [Problem(role, f"{words} {', '.join(different)}")]
    if own.classes != task.classes:
        want_classes, got_classes = ", ".join(task.classes), ", ".join(own.classes)
        return [Problem(role, f"must tell apart the task's classes {want_classes}; it knows {got_classes}")]
    return []
