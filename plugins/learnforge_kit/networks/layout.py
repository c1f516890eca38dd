"""Memory layouts: convolutions on a CPU are faster where the channels of images come last in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def channels_last(network: Any, shape: Sequence[int], device: torch.device) -> Iterator[None]:
    """Let a network work on channels-last images within a block, where it is faster by it and can. Whoever
    calls it hands over and gets tensors as ever, and its weights stay as they are.

    Whether it can follows from the network and the shape alone, so the same training gives the same bits
    again: layers that flatten by `view`, for one, cannot, and a trial says so. Networks that somebody listens
    to by hooks are left as they are.

    Args:
        network: A network; nothing is done for what is no module.
        shape: Of an input.
        device: Where it runs.
    """
    if not isinstance(network, nn.Module) or not _gains(network, shape, device):
        yield
        return
    handles = network.register_forward_pre_hook(_take), network.register_forward_hook(_give)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _gains(network: nn.Module, shape: Sequence[int], device: torch.device) -> bool:
    layers = [*network.modules()]
    # who listens to a layer may flatten what it puts out
    is_heard = any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
    is_apt = len(shape) == 3 and any(isinstance(layer, nn.Conv2d) for layer in layers)
    if is_heard or not is_apt or device.type != "cpu":
        return False
    training = [layer for layer in layers if layer.training]
    network.eval()  # so that nothing is drawn, and no statistics move
    try:
        with torch.no_grad():
            network(torch.zeros(2, *shape).to(memory_format=torch.channels_last))
    except Exception:  # whatever it is, the call that counts says it
        return False
    finally:
        for layer in training:
            layer.training = True
    return True


def _take(network: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.to(memory_format=torch.channels_last) if getattr(x, "ndim", 0) == 4 else x for x in given)


def _give(network: nn.Module, given: tuple[Any, ...], outputs: Any) -> Any:
    return outputs.contiguous() if isinstance(outputs, Tensor) else outputs
