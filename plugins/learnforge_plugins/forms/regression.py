"""Numbers for each input: the mean squared error, and how much of the targets' variance is explained.

    loss = mean over inputs and columns of (output - target)^2
    R2   = 1 - sum (output - target)^2 / sum (target - mean of the column)^2,    the mean over columns
    rmse = the root of the mean squared error, mae = the mean absolute error, in the targets' own units

Splits hold targets less `TaskInfo.target_mean`, over `target_std`, and networks learn those; R2 is the same
for both. A column without spread in a split is left out of R2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from learnforge import Form, StageError, Task, TaskInfo, hookimpl


@frozen
class Regression(Form):
    """Numbers, float [batch, column]; outputs are the numbers themselves."""

    measured: ClassVar[Sequence[str]] = ("r2", "rmse", "mae")
    errors: ClassVar[Sequence[str]] = ("rmse", "mae")
    meaning: ClassVar[str] = "the numbers, in the targets' own units"

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        if outputs.shape != targets.shape:
            want, got = list(targets.shape), list(outputs.shape)
            raise StageError(f"outputs must have the targets' shape {want}, the network gives {got}")
        return F.mse_loss(outputs, targets)

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        outputs, targets = outputs.double(), targets.double()
        wrong, spread = outputs - targets, targets - targets.mean(0)
        explained = 1 - wrong.square().sum(0) / spread.square().sum(0)
        explained = explained[spread.abs().amax(0) > 0]
        unit = wrong.new_tensor(task.target_std or (1.0,))
        return {
            "r2": float(explained.mean()) if len(explained) else 0.0,
            "rmse": float((wrong * unit).square().mean().sqrt()),
            "mae": float((wrong * unit).abs().mean()),
        }

    def fault(self, task: Task) -> str:
        wanted = task.info.outputs
        for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test)):
            labels = split.labels
            if labels.ndim != 2 or labels.shape[1] != wanted or not labels.is_floating_point():
                got = f"{labels.dtype} {list(labels.shape)}"
                return f"targets of the {name} split must be float [input, {wanted}], they are {got}"
            if not bool(labels.isfinite().all()):
                return f"targets of the {name} split must be finite"
        return ""


@hookimpl
def learnforge_forms() -> dict[str, type[Form]]:
    return {"regression": Regression}
