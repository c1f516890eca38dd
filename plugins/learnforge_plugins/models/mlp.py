"""A multilayer perceptron: flattened pixels, hidden layers with a rectifier, class scores.

Reference:
    Hinton, Vinyals & Dean, Distilling the knowledge in a neural network, 2015, section 3, for the networks
    with 1,200 and 800 units that MNIST is distilled with. arXiv:1503.02531
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import evolve, field, frozen
from attrs.validators import deep_iterable, ge, lt
from torch import nn

from learnforge import Model, TaskInfo, hookimpl


@frozen
class MLP(Model):
    """Multilayer perceptron.

    Args:
        hidden: Units of each hidden layer, from 1; none makes a linear classifier.
        dropout: Share of hidden units dropped in training, in [0, 1).
    """

    hidden: tuple[int, ...] = field(default=(256,), validator=deep_iterable(ge(1)))
    dropout: float = field(default=0.0, validator=[ge(0.0), lt(1.0)])

    def family(self) -> Sequence[Model]:
        factors = [2 ** (step / 2) for step in range(-8, 17)]
        sizes = {tuple(max(1, round(units * factor)) for units in self.hidden) for factor in factors}
        return [evolve(self, hidden=hidden) for hidden in sorted(sizes)]

    def build(self, task: TaskInfo) -> nn.Module:
        inside = math.prod(task.input_shape)
        layers: list[nn.Module] = [nn.Flatten()]
        for units in self.hidden:
            layers += [nn.Linear(inside, units), nn.ReLU()]
            if self.dropout:
                layers.append(nn.Dropout(self.dropout))
            inside = units
        return nn.Sequential(*layers, nn.Linear(inside, task.outputs))


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"mlp": MLP}
