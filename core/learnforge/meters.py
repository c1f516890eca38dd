"""What can be said of a network before it is trained: costs, and scores that foretell its accuracy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learnforge.space import time_call
from learnforge.task import TaskInfo


class CostMeter(ABC):
    """A method of the kind `cost`: a frozen attrs class that says what a network costs somewhere.

    The search driver calls `measure` once for each new design, before it is trained. Lists of `costs` in a
    recipe name them; objectives and limits then use a cost by its `label`.
    """

    needs_weights: ClassVar[bool] = False
    """Whether the network must be built with weights on the device, to be run; else it comes on the meta
    device, where nothing is computed."""

    @property
    def label(self) -> str:
        """Name in objectives and limits; "" for the name that the plugin is registered by."""
        return ""

    def content(self) -> str:
        """Return a hash of the files that the cost is read from, for fingerprints; "" where there are none.

        Raises:
            ValueError: A file is missing or of another form; called before anything is computed.
        """
        return ""

    @abstractmethod
    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        """Return the cost of one image in inference; less is better.

        Args:
            network: The network, in eval mode.
            task: Gives the input shape.
        """


class Score(ABC):
    """A method of the kind `score`: a zero-cost score, which sees a network before it is trained.

    The search driver calls `score` for each new design of a search that uses it, as an objective, a filter,
    for its warm start or for its searcher.
    """

    @abstractmethod
    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        """Return the score; more promises more accuracy. May change the network, which is thrown away.

        Args:
            network: The network with fresh weights, in training mode, on the device.
            images: A batch of training images, normalised: float [batch, channel, height, width].
            labels: Their labels: int64 [batch].
        """


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
    """Return each layer with its signature and what goes into it for one image, in the order in which they
    run.
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
