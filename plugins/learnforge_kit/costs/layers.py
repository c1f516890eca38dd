"""What the layers of a network do, and how long each of them takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from learnforge.spec import TaskInfo
from learnforge_kit.costs.measuring import time_call


def layer_signatures(network: nn.Module, task: TaskInfo) -> list[str]:
    """Say what each layer does, in the order in which they run: `Conv2d 3x32x32 > 16x32x32 k3x3 s1x1 g1`.

    Equal signatures take equal time. Containers are left out, and so is what no module does, such as the sum
    of a shortcut.

    Args:
        network: A network, on any device; on the meta device nothing is computed.
        task: Gives the input shape.
    """
    return [signature for signature, _, _ in each_layer(network, task)]


def each_layer(network: nn.Module, task: TaskInfo) -> list[tuple[str, nn.Module, tuple[Any, ...]]]:
    """Return each layer with its signature and what goes into it for one image, in the order in which
    they run.
    """
    found: list[tuple[str, nn.Module, tuple[Any, ...]]] = []
    _watch(network, task, lambda layer, inputs, out: found.append((_sign(layer, inputs, out), layer, inputs)))
    return found


def time_layers(
    network: nn.Module, task: TaskInfo, threads: int = 1, known: Mapping[str, float] = {}
) -> dict[str, float]:
    """Time each layer of a network for one image: {signature: median milliseconds}.

    Args:
        network: The network, on its device.
        task: Gives the input shape.
        threads: CPU threads that torch may use meanwhile.
        known: Signatures that need not be timed again.
    """
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    calls: dict[str, Callable[[], Any]] = {}
    for signature, layer, inputs in each_layer(network, task):
        if signature not in known:
            calls.setdefault(signature, partial(layer, *inputs))
    return {signature: time_call(call, network, device, threads) for signature, call in calls.items()}


def _watch(
    network: nn.Module, task: TaskInfo, note: Callable[[nn.Module, tuple[Any, ...], Any], None]
) -> None:
    """Show a network one image, and call `note(layer, inputs, output)` for each layer."""
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    layers = [layer for layer in network.modules() if not any(True for _ in layer.children())]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with _evaluating(network), torch.no_grad():
            network(torch.zeros(1, *task.input_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _evaluating(network: nn.Module) -> Any:
    was_training = network.training
    network.eval()
    yield
    network.train(was_training)


def _sign(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> str:
    words = [type(layer).__name__, _shape(inputs[0] if inputs else None), ">", _shape(output)]
    if hasattr(layer, "kernel_size"):
        words += [f"k{_pair(layer.kernel_size)}", f"s{_pair(layer.stride)}"]
    if hasattr(layer, "groups"):
        words.append(f"g{layer.groups}")
    if hasattr(layer, "dilation") and _pair(layer.dilation) != "1x1":
        words.append(f"d{_pair(layer.dilation)}")
    return " ".join(words)


def _shape(value: Any) -> str:
    return "x".join(map(str, value.shape[1:])) if isinstance(value, Tensor) else type(value).__name__


def _pair(value: Any) -> str:
    return "x".join(map(str, value if isinstance(value, tuple) else (value, value)))
