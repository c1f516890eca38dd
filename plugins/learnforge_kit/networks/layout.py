"""Memory layouts: convolutions on a CPU are faster where the channels of images come last in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def layout_of(network: Callable[..., Any], shape: Sequence[int], device: torch.device) -> torch.memory_format:
    """Return the layout in which a network is given its inputs. It follows from the network alone, so that
    the same training gives the same bits again.

    Args:
        network: The network, or several in a module; of what is no module nothing is known.
        shape: Of an input.
        device: Where it runs.
    """
    layers = network.modules() if isinstance(network, nn.Module) else ()
    is_faster = device.type == "cpu" and len(shape) == 3 and any(isinstance(x, nn.Conv2d) for x in layers)
    return torch.channels_last if is_faster else torch.contiguous_format


def lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Put the kernels of convolutions into a layout; no value changes."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.clone(memory_format=layout)


def run(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Run a network on normalised images, in its layout where it can work in that: `view` cannot."""
    layout = layout_of(network, images.shape[1:], images.device)
    try:
        return network(images.to(memory_format=layout))
    except RuntimeError:
        if layout is torch.contiguous_format:
            raise
    return network(images)
