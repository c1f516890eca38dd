"""The head of a network, the layer that gives the class scores: finding it, and replacing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from attrs import frozen
from torch import nn

from learnforge.errors import ArtifactError
from learnforge.kinds.change import Change
from learnforge.kinds.seen.network import Layers
from learnforge.spec import TaskInfo
from learnforge_kit.networks.layers import read_layers


def find_heads(network: nn.Module, task: TaskInfo) -> tuple[str, ...]:
    """Return the names of the layers that give the class scores, found by running the network: one linear
    layer or convolution, or several whose scores are combined, as in distilled vision transformers.

    Args:
        network: The network, for any number of classes.
        task: Gives the shape of the images that it takes.

    Raises:
        ArtifactError: There is none; the layers are listed.
    """
    heads = run_layers(network, task.input_shape).heads
    if heads:
        return heads
    listed = [
        f"{name} {type(network.get_submodule(name)).__name__}"
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    raise ArtifactError(
        f"the head of {type(network).__name__} is unknown: its class scores come from no linear layer or "
        f"convolution with an output for each; layers: {', '.join(listed) or 'none'}"
    )


def find_head(network: nn.Module, task: TaskInfo) -> str:
    """Return the name of the layer that gives the class scores; see `find_heads`.

    Raises:
        ArtifactError: There is none, or there are several.
    """
    heads = find_heads(network, task)
    if len(heads) > 1:
        raise ArtifactError(
            f"the class scores of {type(network).__name__} come from {len(heads)} heads, {', '.join(heads)}, "
            "and this needs a network with one; `fine-tune` takes several"
        )
    return heads[0]


def replace_heads(network: nn.Module, task: TaskInfo) -> tuple[str, ...]:
    """Put fresh heads for a task's classes in place of the old ones, of their types and on their device;
    return their names. Methods do it by the change `NewHead`, which is written down.

    Their initialisation is torch's own, from the global generator.

    Raises:
        ArtifactError: There is none, or what comes behind it needs the old number of classes.
    """
    names = find_heads(network, task)
    for name in names:
        old = network.get_submodule(name)
        if isinstance(old, nn.Linear):
            new: nn.Module = nn.Linear(old.in_features, task.outputs, old.bias is not None)
        else:
            assert isinstance(old, nn.Conv2d)
            new = convolution_like(old, old.in_channels, task.outputs)
        network.set_submodule(name, new.to(old.weight.device, old.weight.dtype).train(old.training))
    try:
        found = find_heads(network, task)
    except Exception as error:  # whatever a stranger's network raises
        reason = f"{type(error).__name__}: {error}"
    else:
        if found == names:
            return names
        reason = f"its scores come from {', '.join(found)} then"
    raise ArtifactError(
        f"{type(network).__name__} does not work with a head of {task.outputs} outputs at "
        f"{', '.join(names)}: {reason}"
    )


@frozen
class NewHead(Change):
    """A fresh head for the task's classes, in the place of the one there is. It has no options."""

    name: ClassVar[str] = "head"
    follows_task: ClassVar[bool] = True

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        replace_heads(network, task)
        return network


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Let a network be in eval mode within a block, then give every module its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def run_layers(network: nn.Module, input_shape: tuple[int, ...]) -> Layers:
    """Read a network's layers with two black images of a shape, in eval mode."""
    first = next(network.parameters(), None)
    like = torch.empty(0) if first is None else first
    with in_eval_mode(network):
        return read_layers(network, torch.zeros(2, *input_shape, device=like.device, dtype=like.dtype))


def convolution_like(old: nn.Conv2d, inside: int, outside: int) -> nn.Conv2d:
    """Make a fresh convolution that differs from another in its channels alone."""
    conv: Any = nn.Conv2d  # torch annotates the kernel size of a layer as a tuple of any length
    shape = old.kernel_size, old.stride, old.padding, old.dilation
    more = {"bias": old.bias is not None, "padding_mode": old.padding_mode}
    new: nn.Conv2d = conv(inside, outside, *shape, **more)
    return new
