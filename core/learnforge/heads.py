"""The layer of a network that gives its class scores: finding it, and putting a fresh one in its place."""

from __future__ import annotations

from typing import Any

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
        conv: Any = nn.Conv2d  # torch annotates the kernel size of a layer as a tuple of any length
        new = conv(
            old.in_channels,
            new_outputs,
            old.kernel_size,
            old.stride,
            old.padding,
            old.dilation,
            bias=old.bias is not None,
            padding_mode=old.padding_mode,
        )
    module.set_submodule(name, new.to(old.weight.device, old.weight.dtype))
    return name


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())
