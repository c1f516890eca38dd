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
        for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test)):
            labels, most = split.labels, len(task.info.classes)
            if labels.is_floating_point() or labels.ndim != 1:
                got = f"{labels.dtype} {list(labels.shape)}"
                want = "whole numbers [input], places in its classes"
                return f"labels of the {name} split must be {want}, got {got}"
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < most:
                got = f"{int(labels.min())} to {int(labels.max())}"
                return f"labels of the {name} split must be in [0, {most}), places in its classes, got {got}"
        return ""


@hookimpl
def learnforge_forms() -> dict[str, type[Form]]:
    return {"classification": Classification}
