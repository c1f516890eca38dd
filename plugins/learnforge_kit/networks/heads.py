"""Both ends of a network, its stem and its head: finding them, and making them fit another task."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from learnforge.errors import ArtifactError


def find_head(module: nn.Module, outputs: int) -> str:
    """Return the name of the layer that gives the class scores: the last linear layer or convolution with as
    many outputs.

    Raises:
        ArtifactError: There is none; the layers are listed.
    """
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for name, layer in reversed(layers):
        if (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels) == outputs:
            return str(name)
    listing = ", ".join(f"{name} {type(layer).__name__}" for name, layer in layers) or "none"
    raise ArtifactError(
        f"no layer of {type(module).__name__} has {outputs} outputs, so its head is unknown; layers: "
        f"{listing}"
    )


def replace_head(module: nn.Module, outputs: int, new_outputs: int) -> str:
    """Put a fresh head with `new_outputs` outputs in place of the old one, of its type and on its device;
    return its name.

    Its initialisation is torch's own, from the global generator.
    """
    name = find_head(module, outputs)
    old = module.get_submodule(name)
    if isinstance(old, nn.Linear):
        new: nn.Module = nn.Linear(old.in_features, new_outputs, old.bias is not None)
    else:
        assert isinstance(old, nn.Conv2d)
        new = _convolution_like(old, old.in_channels, new_outputs)
    module.set_submodule(name, new.to(old.weight.device, old.weight.dtype))
    return name


def find_stem(module: nn.Module) -> str:
    """Return the name of the layer that images go into: the first convolution or linear layer.

    Raises:
        ArtifactError: There is none.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            return str(name)
    raise ArtifactError(f"{type(module).__name__} has no convolution and no linear layer to take images")


def replace_stem(module: nn.Module, channels: int) -> str:
    """Let the first convolution take another number of channels, its weights averaged over the old ones;
    return its name.

    The sum over channels keeps its size, so that activations do.

    Raises:
        ArtifactError: The first layer is no convolution, or one in groups.
    """
    name = find_stem(module)
    old = module.get_submodule(name)
    if not isinstance(old, nn.Conv2d) or old.groups > 1:
        raise ArtifactError(
            f"{name}, the first layer of {type(module).__name__}, must be a plain convolution to take "
            f"{channels} channels, it is {old}"
        )
    new = _convolution_like(old, channels, old.out_channels).to(old.weight.device, old.weight.dtype)
    with torch.no_grad():
        mean = old.weight.mean(1, keepdim=True)
        new.weight.copy_(mean.expand_as(new.weight) * (old.in_channels / channels))
        if old.bias is not None and new.bias is not None:
            new.bias.copy_(old.bias)
    module.set_submodule(name, new)
    return name


def _convolution_like(old: nn.Conv2d, inside: int, outside: int) -> nn.Conv2d:
    """Make a fresh convolution that differs from another in its channels alone."""
    conv: Any = nn.Conv2d  # torch annotates the kernel size of a layer as a tuple of any length
    new: nn.Conv2d = conv(
        inside,
        outside,
        old.kernel_size,
        old.stride,
        old.padding,
        old.dilation,
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    return new


def describe_changes(old: tuple[int, int], new: tuple[int, int]) -> list[str]:
    """Say how a network is changed for other channels and classes.

    Args:
        old: Channels and classes that it was made for.
        new: Those of the task.
    """
    changes = [f"{old[0]} → {new[0]} channels: first convolution averaged"] if old[0] != new[0] else []
    return changes + ([f"{old[1]} → {new[1]} classes: new head"] if old[1] != new[1] else [])


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())
