"""Any number of classes for each input, each of which is there or is not.

    loss = mean over inputs and classes of -(t log p + (1 - t) log(1 - p)),    p = sigmoid(output)
    mAP  = mean over classes of sum_k (recall_k - recall_{k-1}) precision_k    over inputs by falling output
    F1   = mean over classes of 2 |found and there| / (|found| + |there|)      found: output above 0

Label smoothing moves targets towards one half. A class that no input of a split has, or all have, is left out
of the mean.

Reference:
    Everingham, Van Gool, Williams, Winn & Zisserman, The Pascal visual object classes (VOC) challenge, 2010
    (mean average precision). doi:10.1007/s11263-009-0275-4
Differs:
    Precision is not interpolated, as in scikit-learn's `average_precision_score`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor

from learnforge import Form, Task, TaskInfo, hookimpl


@frozen
class MultiLabel(Form):
    """Classes that are there or not: float [batch, class] of 0 and 1; outputs are their log-odds."""

    measured: ClassVar[Sequence[str]] = ("map", "f1")
    meaning: ClassVar[str] = "log-odds of each class, above 0 where it is there"

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets * (1 - smoothing) + smoothing / 2)

    def answers(self, outputs: Tensor) -> Tensor:
        return (outputs > 0).to(outputs.dtype)

    def shown(self, outputs: Tensor) -> Tensor:
        return outputs.sigmoid()

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        from sklearn.metrics import average_precision_score

        known = (targets.min(0).values < 1) & (targets.max(0).values > 0)
        if not bool(known.any()):
            return {"map": 0.0, "f1": 0.0}
        truth, scores = targets[:, known].double(), outputs[:, known].double()
        precision = average_precision_score(truth.cpu().numpy(), scores.cpu().numpy(), average="macro")
        found = (scores > 0).double()
        f1 = 2 * (found * truth).sum(0) / (found.sum(0) + truth.sum(0))
        return {"map": float(precision), "f1": float(f1.mean())}

    def fault(self, task: Task) -> str:
        wanted = len(task.info.classes)
        for name, split in (("train", task.train), ("validation", task.validation), ("test", task.test)):
            labels = split.labels
            if labels.ndim != 2 or labels.shape[1] != wanted or not labels.is_floating_point():
                got = f"{labels.dtype} {list(labels.shape)}"
                return f"labels of the {name} split must be float [input, {wanted}], they are {got}"
            if not bool(torch.isin(labels, torch.tensor([0.0, 1.0], device=labels.device)).all()):
                return f"labels of the {name} split must be 0 or 1 for each class"
        return ""


@hookimpl
def learnforge_forms() -> dict[str, type[Form]]:
    return {"multi-label": MultiLabel}
