"""A distiller with the names of learnforge's and of another package's, and a model with learnforge's.

    loss = |s - t|^2

Reference:
    Ba & Caruana, Do Deep Nets Really Need to be Deep?, 2014. arXiv:1312.6184
"""

from __future__ import annotations

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from learnforge import Batch, Distiller, Model, Outputs, TaskInfo, hookimpl


@frozen
class LogitMatching(Distiller):
    """The student's scores are those of the teacher. It has no options."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return F.mse_loss(student.logits, teacher.logits)


@frozen
class Flat(Model):
    """One linear layer. It has no options."""

    def build(self, task: TaskInfo) -> nn.Module:
        count = task.input_shape[0] * task.input_shape[1] * task.input_shape[2]
        return nn.Sequential(nn.Flatten(), nn.Linear(count, task.outputs))


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"kd": LogitMatching, "simkd": LogitMatching}


@hookimpl
def learnforge_models() -> dict[str, type[Model]]:
    return {"conv4": Flat}
