"""What a method sees of a network: its layers by name, its class scores, and what layers put out."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Mapping

from attrs import field, frozen
from torch import Tensor, nn

from learnforge.errors import StageError

EMBEDDING = "embedding"
"""Stands for what goes into a network's last layer."""

INPUT = ":input"
"""Behind a layer's name it stands for what goes into the layer."""

_SHOWN = 40


@frozen(eq=False)
class Layers:
    """What the layers of a network put out for one image.

    A *stage* is the last layer of a resolution: stage 1 puts out the first height and width that occur, and
    so on. A block counts as one layer unless it goes through several resolutions itself.

    Args:
        network: The network.
        shapes: {layer: shape of its output, without the batch axis}, in the order in which they run.
        stages: Layers of the stages, from the input on.
        embedding: What goes into the last of the heads, as `layer:input`; None without one.
        overwritten: Layers whose output the layer after them writes over, in place.
        heads: The linear layers and convolutions that the class scores come from: one, or several whose
            scores are combined.
    """

    network: nn.Module
    shapes: Mapping[str, tuple[int, ...]]
    stages: tuple[str, ...] = ()
    embedding: str | None = None
    overwritten: frozenset[str] = frozenset()
    heads: tuple[str, ...] = ()

    def find(self, name: str) -> str:
        """Return the layer that a name means: a layer's own, `stage 2` (from 1; `stage -1` is the last),
        `embedding`, or `layer:input`.

        Raises:
            StageError: There is no such layer; stages and layers are listed.
        """
        if name in self.shapes:
            return name
        number = re.fullmatch(r"stage (-?\d+)", name)
        if number is not None:
            position = int(number.group(1))
            if position == 0 or abs(position) > len(self.stages):
                raise self._error(f"no {name!r}: it has {len(self.stages)}")
            return self.stages[position - 1 if position > 0 else position]
        if name == EMBEDDING and self.embedding is not None:
            return self.embedding
        layer = name.removesuffix(INPUT)
        if layer not in self.shapes:
            close = difflib.get_close_matches(layer, self.shapes, n=1)
            raise self._error(f"no layer {layer!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        return name

    def _error(self, words: str) -> StageError:
        stages = ", ".join(
            f"stage {number} = {_named(layer, self.shapes)}" for number, layer in enumerate(self.stages, 1)
        )
        listed = [_named(layer, self.shapes) for layer in itertools.islice(self.shapes, _SHOWN)]
        more = f", and {len(self.shapes) - _SHOWN} more" if len(self.shapes) > _SHOWN else ""
        return StageError(
            f"{type(self.network).__name__} has {words}. Stages: {stages or 'none'}. "
            f"Layers: {', '.join(listed)}{more}"
        )


def _named(layer: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    return f"{layer} {list(shapes[layer])}"


def _without_network(images: Tensor) -> Outputs:
    raise StageError("there is no network behind these outputs, so it cannot be run")


@frozen(eq=False)
class Outputs:
    """What a network puts out for a batch.

    Args:
        logits: Class scores before the softmax, float [batch, outputs].
        taps: {layer: that layer's output}, for the layers that a method asked for, by the names it used.
        layers: All that the network has, where layers are listened to.
        run: Runs the network on other images, normalised ones, with gradients to its weights (but for those
            of a frozen teacher) and to the images.
    """

    logits: Tensor
    taps: Mapping[str, Tensor] = field(factory=dict)
    layers: Layers | None = field(default=None, repr=False)
    run: Callable[[Tensor], Outputs] = field(default=_without_network, repr=False)
