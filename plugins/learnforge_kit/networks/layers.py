"""The layers of a network as an image goes through them: how a method names the
features that it listens to.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor, nn

from learnforge.errors import StageError
from learnforge.kinds.seen.network import INPUT, Layers
from learnforge.randomness import uncompiled


@frozen
class _Call:
    """One layer at work."""

    name: str
    layer: nn.Module = field(repr=False)
    taken: tuple[int, ...] | None
    given: tuple[int, ...]
    output: Tensor = field(repr=False)
    version: int
    origin: Any = field(repr=False)


def read_layers(network: nn.Module, images: Tensor) -> Layers:
    """Let images go through a network and write down what its layers put out.

    Args:
        network: The network, left in the mode it is in; in training mode batch statistics would move.
        images: Normalised images, float [batch, channel, height, width], on the network's device.
    """
    calls: list[_Call] = []
    named = [(plain_name(name), layer) for name, layer in network.named_modules() if plain_name(name)]
    handles = [layer.register_forward_hook(_note(name, calls)) for name, layer in named]
    # autograd's graph says which layers the scores come from. The copy is no leaf, so that a network may
    # write over it, and needs a gradient, so that frozen networks leave a trace
    shown = images.detach().requires_grad_().clone()
    try:
        with torch.enable_grad(), uncompiled():
            scores = network(shown)
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(scores, Tensor) or scores.ndim < 2:
        what = list(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise StageError(f"{type(network).__name__} must put out class scores [batch, class], got {what}")
    heads = _find_heads(scores, calls)
    embedding = f"{heads[-1]}{INPUT}" if heads else None
    overwritten = frozenset(call.name for call in calls if call.output._version != call.version)
    shapes = {call.name: call.given for call in calls}
    return Layers(network, shapes, _find_stages(calls), embedding, overwritten, heads)


def _find_heads(scores: Tensor, calls: Sequence[_Call]) -> tuple[str, ...]:
    """Return the linear layers and convolutions that the class scores come from, in the order in which they
    run: going back from the scores, the first such layers that are met, if they have an output for each.
    """
    layers = {call.origin: call for call in calls if isinstance(call.layer, (nn.Linear, nn.Conv2d))}
    layers.pop(None, None)  # what runs without autograd
    found, waiting, seen = set(), [scores.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in layers:
            found.add(layers[node].name)
        else:
            waiting += [before for before, _ in node.next_functions]
    fitting = {call.name: _outputs(call.layer) == scores.shape[1] for call in layers.values()}
    if not all(fitting[name] for name in found):  # what is behind such a layer is no score of a class yet
        return ()
    return tuple(dict.fromkeys(call.name for call in calls if call.name in found))


def _outputs(layer: nn.Module) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def count_parameters(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())


def device_of(network: nn.Module) -> torch.device:
    """Return where a network's parameters are; the CPU for one that has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def plain_name(name: str) -> str:
    """Return a layer's name without what `torch.compile` puts before it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def is_compiled(network: nn.Module) -> bool:
    """Tell whether `torch.compile` stands before a network or one of its layers."""
    return any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in network.modules())


def _note(name: str, calls: list[_Call]) -> Any:
    def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            taken = inputs[0] if inputs and isinstance(inputs[0], Tensor) else None
            before = tuple(taken.shape[1:]) if taken is not None else None
            calls.append(
                _Call(
                    name,
                    layer,
                    before,
                    tuple(output.shape[1:]),
                    output.detach(),
                    output._version,
                    output.grad_fn,
                )
            )

    return hook


def _find_stages(calls: Sequence[_Call]) -> tuple[str, ...]:
    """Return the last layer of every resolution that has a height or width above 1; none of a network that
    keeps channels last, whose layers say nothing of height and width.
    """
    often = collections.Counter(call.name for call in calls)
    atoms = [call for call in _atoms(calls) if _resolution(call.given) and often[call.name] == 1]
    if any(_keeps_channels_last(call) for call in atoms):
        return ()
    groups = itertools.groupby(atoms, key=lambda call: _resolution(call.given))
    return tuple([*members][-1].name for _, members in groups)


def _atoms(calls: Sequence[_Call]) -> Iterator[_Call]:
    """Yield the calls that stages are made of, in the order in which they end: the outermost ones, or in the
    place of a container what runs inside it.
    """
    names = {call.name for call in calls}
    for call in calls:
        if any(outer in names for outer in _outer(call.name)):
            continue
        inside = [c for c in calls if c.name.startswith(f"{call.name}.")]
        if inside and (isinstance(call.layer, nn.Sequential) or _spans(call, inside)):
            yield from _atoms(inside)
            if call.given != inside[-1].given:  # what it computes itself at its end
                yield call
        else:
            yield call


def _outer(name: str) -> Iterator[str]:
    """Yield the names of the modules around a layer."""
    parts = name.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _spans(call: _Call, inside: Sequence[_Call]) -> bool:
    """Tell whether a layer goes through more than one new resolution."""
    found = {_resolution(c.given) for c in inside} - {None, _resolution(call.taken or ())}
    return len(found) > 1


def _keeps_channels_last(call: _Call) -> bool:
    layer = call.layer
    return isinstance(layer, nn.LayerNorm) and layer.normalized_shape[-1:] == call.given[-1:]


def _resolution(shape: tuple[int, ...]) -> tuple[int, int] | None:
    return shape[1:] if len(shape) == 3 and max(shape[1:]) > 1 else None
