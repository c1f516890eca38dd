"""The stem of a network, the layer that images go into: finding it, and making it take other channels."""

from __future__ import annotations

from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import nn

from learnforge.errors import ArtifactError
from learnforge.kinds.change import Change
from learnforge.spec import TaskInfo
from learnforge_kit.networks.heads import convolution_like, run_layers


def find_stem(network: nn.Module, input_shape: tuple[int, ...]) -> str:
    """Return the name of the layer that images go into: the first convolution or linear layer that runs.

    Args:
        network: The network.
        input_shape: Channels, height and width of the images that it takes.

    Raises:
        ArtifactError: There is none.
    """
    for name in run_layers(network, input_shape).shapes:
        if isinstance(network.get_submodule(name), (nn.Linear, nn.Conv2d)):
            return name
    raise ArtifactError(f"{type(network).__name__} has no convolution and no linear layer to take images")


def replace_stem(network: nn.Module, input_shape: tuple[int, ...], channels: int) -> str:
    """Let the first convolution take another number of channels, its weights averaged over the old ones;
    return its name. Methods do it by the change `NewStem`, which is written down.

    The sum over channels keeps its size, so that activations do.

    Args:
        network: The network.
        input_shape: Channels, height and width of the images that it takes.
        channels: Channels that it is to take.

    Raises:
        ArtifactError: The first layer is no convolution, or one in groups.
    """
    name = find_stem(network, input_shape)
    old = network.get_submodule(name)
    if not isinstance(old, nn.Conv2d) or old.groups > 1:
        raise ArtifactError(
            f"{name}, the first layer of {type(network).__name__}, must be a plain convolution to take "
            f"{channels} channels, it is {old}"
        )
    new = convolution_like(old, channels, old.out_channels).to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        mean = old.weight.mean(1, keepdim=True)
        new.weight.copy_(mean.expand_as(new.weight) * (old.in_channels / channels))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    network.set_submodule(name, new)
    return name


@frozen
class NewStem(Change):
    """A first convolution for the channels of the task's images, its weights averaged over the old ones.

    Args:
        channels: Channels that it took before, from 1.
    """

    channels: int = field(validator=ge(1))

    name: ClassVar[str] = "stem"
    follows_task: ClassVar[bool] = True

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        replace_stem(network, (self.channels, *task.input_shape[1:]), task.input_shape[0])
        return network


def describe_changes(old: tuple[int, int], new: tuple[int, int]) -> list[str]:
    """Say how a network is changed for other channels and classes.

    Args:
        old: Channels and classes that it was made for.
        new: Those of the task.
    """
    changes = [f"{old[0]} → {new[0]} channels: first convolution averaged"] if old[0] != new[0] else []
    return changes + ([f"{old[1]} → {new[1]} classes: new head"] if old[1] != new[1] else [])
