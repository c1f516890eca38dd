"""DARTS: layers mix all operations by weights that are learnt on validation data; the heaviest are kept.

    alpha step: down L_validation(w, alpha);  weight step: down L_train(w, alpha)            (first order)

Reference:
    Liu, Simonyan & Yang, DARTS: differentiable architecture search, 2019. arXiv:1806.09055 (algorithm 1)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt
from torch import Tensor, nn

from learnforge import (
    Batch,
    Context,
    Design,
    DirectSearcher,
    Pick,
    Searcher,
    Space,
    StageError,
    Task,
    TaskInfo,
    Turn,
    View,
    hookimpl,
    seeded,
)
from learnforge_kit import Companion, Trainee, fit, permutation

OPERATIONS = ("conv3", "conv5", "pool", "skip")


@frozen
class Chain(Space):
    """Layers in a row, each one of four operations.

    Args:
        layers: How many, from 1.
        width: Channels, from 1.
    """

    layers: int = field(default=4, validator=ge(1))
    width: int = field(default=8, validator=ge(1))

    def design(self, pick: Pick) -> Design:
        return {"layers": [pick.choice(f"layer{i}", OPERATIONS) for i in range(self.layers)]}

    def build(self, design: Design, task: TaskInfo) -> nn.Module:
        return self.around([_operation(name, self.width) for name in design["layers"]], task)

    def around(self, layers: Sequence[nn.Module], task: TaskInfo) -> nn.Module:
        stem = nn.Conv2d(task.input_shape[0], self.width, 3, padding=1)
        head = nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * self.width, task.outputs)
        return nn.Sequential(stem, *layers, *head)


def _operation(name: str, width: int) -> nn.Module:
    if name in ("skip", "pool"):
        return nn.Identity() if name == "skip" else nn.AvgPool2d(3, 1, padding=1)
    size = int(name[-1])
    convolution = nn.Conv2d(width, width, size, padding=size // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


class _Mixed(nn.Module):
    def __init__(self, width: int, alpha: Tensor):
        super().__init__()
        self.operations = nn.ModuleList(_operation(name, width) for name in OPERATIONS)
        self.alpha = [alpha]  # in a list: it is trained by steps of its own

    def forward(self, images: Tensor) -> Tensor:
        shares = self.alpha[0].softmax(0)
        return torch.stack([s * o(images) for s, o in zip(shares, self.operations, strict=True)]).sum(0)


@frozen
class DARTS(DirectSearcher):
    """Differentiable search in a space of chains.

    Args:
        rate: Learning rate of the architecture's weights, above 0.
    """

    example: ClassVar[Space | None] = Chain(layers=2, width=4)

    rate: float = field(default=0.03, validator=gt(0.0))

    def find(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Sequence[Mapping[str, Any]]:
        if not isinstance(space, Chain):
            raise StageError(f"darts searches the space `chain`, got {type(space).__name__}")
        device = context.device
        alphas = nn.ParameterList(torch.zeros(len(OPERATIONS), device=device) for _ in range(space.layers))
        with seeded(context.seed):
            mixed = [_Mixed(space.width, alpha) for alpha in alphas]
            network = space.around(mixed, task.info).to(device)
        halves = permutation(context.seed, len(task.train)).chunk(2)
        own, other = (task.train.select(half) for half in halves)

        def loss(batch: Batch, *_: Batch) -> Tensor:
            return F.cross_entropy(network(batch.images), batch.labels)

        turn = Turn(alphas, lambda batch, held_out: loss(held_out), learning_rate=self.rate)
        trainee = Trainee(network, loss, extra=alphas, turns=[turn])
        companion = Companion(other, task.info, is_labelled=True)
        fit(trainee, own, task.info, train, context, "darts", companion=companion)
        ranked = [alpha.argsort(descending=True).tolist() for alpha in alphas]
        best = {f"layer{i}": OPERATIONS[order[0]] for i, order in enumerate(ranked)}
        return [best, *({**best, f"layer{i}": OPERATIONS[order[1]]} for i, order in enumerate(ranked))]


@hookimpl
def learnforge_spaces() -> dict[str, type[Space]]:
    return {"chain": Chain}


@hookimpl
def learnforge_searchers() -> dict[str, type[Searcher]]:
    return {"darts": DARTS}
