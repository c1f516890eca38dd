"""Taps: what layers inside a network put out, beside its class scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen
from torch import Tensor, nn

from learnforge.errors import StageError, nearest


@frozen(eq=False)
class Outputs:
    """What a network puts out for a batch.

    Args:
        logits: Class scores before the softmax, float [batch, outputs].
        taps: {layer name: that layer's output}, for the layers that a method asked for.
    """

    logits: Tensor
    taps: Mapping[str, Tensor] = field(factory=dict)


class Tapped:
    """Runs a network and catches what the named layers put out.

    Args:
        network: The network; it is not changed, only listened to until `close`.
        layers: Names as in `network.named_modules()`.

    Raises:
        StageError: There is no such layer; the layers are listed.
    """

    def __init__(self, network: nn.Module, layers: Sequence[str] = ()):
        self.network = network
        self._caught: dict[str, Tensor] = {}
        modules = dict(network.named_modules())
        for name in layers:
            if name not in modules:
                raise StageError(
                    f"{type(network).__name__} has no layer {name!r}; {nearest(name, filter(None, modules))}"
                )
        self._handles = [modules[name].register_forward_hook(self._catch(name)) for name in layers]

    def __call__(self, images: Tensor) -> Outputs:
        """Run the network on normalised images."""
        self._caught = {}  # whoever ran the network since, such as a validation, was listened to as well
        logits = self.network(images)
        caught, self._caught = self._caught, {}
        return Outputs(logits, caught)

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._caught = {}

    def _catch(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._caught[name] = output

        return hook
