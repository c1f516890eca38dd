"""Multilayer perceptrons: hidden layers of chosen widths, with or without normalisation and dropout.

Reference:
    Rumelhart, Hinton & Williams, Learning representations by back-propagating errors, 1986.
    doi:10.1038/323533a0
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

from attrs import field, frozen
from attrs.validators import ge, le
from torch import nn

from learnforge import Pick, Space, TaskInfo, hookimpl

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


@frozen
class MLP(Space):
    """Multilayer perceptrons on flattened images.

    Args:
        layers: Most hidden layers, from 1.
        min_width: Fewest units of a layer, from 1.
        max_width: Most units of a layer.
    """

    smallest_image: ClassVar[int] = 1

    layers: int = field(default=3, validator=[ge(1), le(64)])
    min_width: int = field(default=8, validator=ge(1))
    max_width: int = field(default=256, validator=ge(1))

    def __attrs_post_init__(self) -> None:
        if self.max_width < self.min_width:
            raise ValueError(f"max_width must be at least min_width = {self.min_width}, got {self.max_width}")

    def design(self, pick: Pick) -> dict[str, Any]:
        count = pick.integer("layers", 1, self.layers)
        widths = [
            pick.integer(f"layer{i}.width", self.min_width, self.max_width, log=True) for i in range(count)
        ]
        return {
            "widths": widths,
            "activation": pick.choice("activation", tuple(ACTIVATIONS)),
            "normalise": pick.choice("normalise", (False, True)),
            "dropout": pick.number("dropout", 0.0, 0.5),
        }

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        width = math.prod(task.input_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for units in design["widths"]:
            layers.append(nn.Linear(width, units))
            layers += [nn.BatchNorm1d(units)] if design["normalise"] else []
            layers += [ACTIVATIONS[design["activation"]](), nn.Dropout(design["dropout"])]
            width = units
        return nn.Sequential(*layers, nn.Linear(width, task.outputs))


@hookimpl
def learnforge_spaces() -> dict[str, type[Space]]:
    return {"mlp": MLP}
