"""The blocks of a network from its input to its head: the depth that freezing and learning rates go by."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from learnforge_kit.networks.layers import count_parameters


def find_blocks(network: nn.Module) -> list[str]:
    """Return the network's blocks as prefixes of parameter names, in the order in which they are defined.

    A container (`nn.Sequential`, `nn.ModuleList`), and any part that holds more than half of all parameters
    though it has parts of its own, is opened; what is left whole, such as a residual block, is a block. Each
    parameter belongs to exactly one block, and so do statistics without parameters.
    """
    return list(_blocks(network, "", count_parameters(network) / 2))


def _blocks(module: nn.Module, name: str, half: float) -> Iterator[str]:
    """Yield the blocks of a module that is opened."""
    prefix = f"{name}." if name else ""
    yield from (prefix + own for own, _ in module.named_parameters(recurse=False))
    for part, child in module.named_children():
        parameters = count_parameters(child)
        has_parts = any(count_parameters(inner) for inner in child.children())
        is_container = type(child) in (nn.Sequential, nn.ModuleList)
        if has_parts and (is_container or parameters > half):
            yield from _blocks(child, prefix + part, half)
        elif parameters or any(True for _ in child.buffers()):  # batch statistics without weights
            yield prefix + part
