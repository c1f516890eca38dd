"""A network that ends at one of its own layers, with a fresh head: what comes after the layer is gone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from attrs import frozen
from torch import Tensor, fx, nn

from learnforge.errors import ArtifactError
from learnforge.kinds.change import Change
from learnforge.spec import TaskInfo
from learnforge_kit.networks.layers import device_of


class CutNetwork(nn.Module):
    """The layers of a network up to one of them, then averaged features and a linear head.

    Parameters and buffers that are left keep their names behind `body.`.

    Args:
        body: Gives the layer's output for images.
        layer: The layer, by its name in the whole network.
        width: Channels of its output.
        outputs: Class scores.
    """

    def __init__(self, body: nn.Module, layer: str, width: int, outputs: int):
        super().__init__()
        self.body, self.layer = body, layer
        self.head = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores: float [batch, class]."""
        scores: Tensor = self.head(pool(self.body(images)))
        return scores


class _AlongTheWay(fx.Tracer):
    """Traces what leads to a layer: modules that hold it are opened, all others stay whole."""

    def __init__(self, layer: str):
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self.layer.startswith(f"{module_qualified_name}.")


def cut_network(network: nn.Module, layer: str, input_shape: Sequence[int], outputs: int) -> CutNetwork:
    """End a network at a layer; its modules are shared, the head is fresh and from the global generator.

    What the forward passes of modules around the layer do themselves, such as functional dropout, is kept as
    it is in eval mode.

    Args:
        network: The whole network, or one that was cut behind this layer.
        layer: Name of a module whose output becomes the features; height and width are averaged.
        input_shape: Channels, height and width of the images.
        outputs: Number of classes.

    Raises:
        ArtifactError: torch.fx cannot trace the network up to the layer.
    """
    whole = network.body if isinstance(network, CutNetwork) else network
    mode = whole.training
    try:
        body = _trace(whole.eval(), layer)
        with torch.no_grad():
            width = pool(body(torch.zeros(1, *input_shape, device=device_of(whole)))).shape[1]
    except Exception as error:  # whatever a stranger's network raises when it is traced
        raise ArtifactError(
            f"{type(whole).__name__} cannot end at {layer!r}, since torch.fx does not trace it that far "
            f"({type(error).__name__}: {error}); take another layer, or features = 'embedding'"
        ) from error
    finally:
        whole.train(mode)
    return CutNetwork(body.train(mode), layer, width, outputs).to(device_of(whole))


@frozen
class Cut(Change):
    """The network ends at a layer, with a fresh linear head on its averaged features.

    Args:
        layer: Name of the layer in the network as it was before it was first cut.
    """

    layer: str

    name: ClassVar[str] = "cut"

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        return cut_network(network, self.layer, task.input_shape, task.outputs)


def pool(features: Tensor) -> Tensor:
    """Average features to [batch, channel].

    Args:
        features: [batch, channel, height, width], [batch, token, channel] or [batch, channel].
    """
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features


def _trace(network: nn.Module, layer: str) -> fx.GraphModule:
    """Return a module that gives the output of a layer, of its last call where there are several."""
    graph = _AlongTheWay(layer).trace(network)
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == layer]
    if not calls:
        raise ValueError("the layer is not called on the way from images to class scores")
    for node in reversed(graph.nodes):
        if node is calls[-1]:
            break
        graph.erase_node(node)
    graph.output(calls[-1])
    body = fx.GraphModule(network, graph, type(network).__name__)
    body.graph.eliminate_dead_code()
    body.delete_all_unused_submodules()
    body.recompile()
    return body
