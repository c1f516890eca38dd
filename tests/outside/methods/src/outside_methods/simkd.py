"""SimKD: the student learns the teacher's features, and answers with the teacher's own head.

    loss = mean (P(f_s) - f_t)^2        P is a projector; the student that is handed on is head_t(P(f_s))

Reference:
    Chen, Mei, Zhang, Wang, Feng & Chen, Knowledge distillation with the reused teacher classifier, 2022.
    arXiv:2203.14001
Differs:
    The projector is a linear layer on averaged features.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from learnforge import (
    Batch,
    Change,
    Criterion,
    Distiller,
    Layers,
    Outputs,
    StageError,
    Task,
    TaskInfo,
    apply_change,
    hookimpl,
)
from learnforge_kit import find_head

TAP = "embedding"


@frozen
class HandedOnHead(Change):
    """A projector and another network's head in the place of the own one.

    Args:
        width: Features that the other head takes.
    """

    width: int = field(default=8, validator=ge(1))

    name: ClassVar[str] = "handed-on-head"

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        name = find_head(network, task)
        old = network.get_submodule(name)
        assert isinstance(old, nn.Linear)
        parts = nn.Linear(old.in_features, self.width), nn.Linear(self.width, task.outputs)
        network.set_submodule(name, nn.Sequential(*parts).to(old.weight.device))
        return network


class _Projected(nn.Module):
    def __init__(self, student: Tensor, teacher: Tensor, head: nn.Linear):
        super().__init__()
        self.projector = nn.Linear(student.shape[1], teacher.shape[1])
        self.head = copy.deepcopy(head).requires_grad_(False)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return F.mse_loss(self.projector(student.taps[TAP]), teacher.taps[TAP])


@frozen
class SimKD(Distiller):
    """Feature distillation into the teacher's own head. It has no options."""

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        return [TAP], [TAP]

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        raise StageError("SimKD needs its projector")

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Criterion:
        assert teacher.layers is not None
        head = teacher.layers.network.get_submodule(teacher.layers.heads[0])
        assert isinstance(head, nn.Linear)
        return _Projected(student.taps[TAP], teacher.taps[TAP], head)

    def finish(self, student: nn.Module, criterion: Criterion, task: TaskInfo) -> nn.Module:
        assert isinstance(criterion, _Projected)
        name = find_head(student, task)
        finished = apply_change(student, HandedOnHead(criterion.head.in_features), task)
        projector, head = finished.get_submodule(name).children()
        projector.load_state_dict(criterion.projector.state_dict())
        head.load_state_dict(criterion.head.state_dict())
        return finished


@hookimpl
def learnforge_changes() -> dict[str, type[Change]]:
    return {HandedOnHead.name: HandedOnHead}


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"simkd": SimKD}
