"""Taps: what layers inside a network put out, beside its class scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from learnforge.kinds.seen.network import INPUT, Layers, Outputs
from learnforge_kit.networks.layers import is_compiled, plain_name


class Tapped:
    """Runs a network and catches what the named layers put out.

    Args:
        layers: The network with its layers; it is not changed, only listened to until `close`.
        names: Layers as `Layers.find` takes them.

    Raises:
        StageError: There is no such layer; stages and layers are listed.
    """

    def __init__(self, layers: Layers, names: Sequence[str] = ()):
        self.layers, self.network = layers, layers.network
        self._caught: dict[str, Tensor] = {}
        modules = {plain_name(name): module for name, module in self.network.named_modules()}
        wanted = {name: layers.find(name) for name in names}
        self._handles = []
        for name, layer in wanted.items():
            module = modules[layer.removesuffix(INPUT)]
            if layer.endswith(INPUT):
                hook = self._catch_input(name)
                self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                hook = self._catch(name, layer in layers.overwritten)
                self._handles.append(module.register_forward_hook(hook))
        self._is_traced = bool(wanted) and is_compiled(self.network)
        if self._is_traced:
            torch.compiler.reset()  # code that was compiled without the hooks would go on without them

    def __call__(self, images: Tensor) -> Outputs:
        """Run the network on normalised images."""
        self._caught = {}  # whoever ran the network since, such as a validation, was listened to as well
        logits = self.network(images)
        caught, self._caught = self._caught, {}
        return Outputs(logits, caught, self.layers, self)

    def close(self) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()
        self._caught = {}
        if self._is_traced:
            torch.compiler.reset()

    def _catch(self, name: str, is_overwritten: bool) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self._caught[name] = output.clone() if is_overwritten else output

        return hook

    def _catch_input(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._caught[name] = (*inputs, *named.values())[0]

        return hook
