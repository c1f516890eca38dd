"""One class for each input: class scores, the cross-entropy of their softmax, and the share that is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from learnforge import Form, Task, TaskInfo, hookimpl


@frozen
class Classification(Form):
    """One class for each input, int64 [batch]; outputs are the classes' scores before the softmax."""

    measured: ClassVar[Sequence[str]] = ("accuracy",)
    meaning: ClassVar[str] = "class scores before the softmax"
    names_one_class: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=smoothing)

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def shown(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).double().mean())}

    def fault(self, task: Task) -> str:
        if len(task.info.classes) < 2:
            return f"a classification task needs at least two classes, got {list(task.info.classes)}"
        kinds = {split.labels.dtype for split in (task.train, task.validation, task.test)}
        if any(kind.is_floating_point for kind in kinds):
            return "labels of a classification task must be whole numbers, places in its classes"
        return ""


@hookimpl
def learnforge_forms() -> dict[str, type[Form]]:
    return {"classification": Classification}
