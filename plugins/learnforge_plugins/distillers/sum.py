"""Several distillers at once: the weighted sum of their losses, which is what `use = ["kd", "fitnet"]` means.

    loss = w_1 * loss_1 + … + w_n * loss_n

Each method's loss is whole, with its own share of the labels; most have an option `labels` for its weight.
What the methods listen to and train is theirs, side by side.

Reference:
    Tian, Krishnan & Isola, Contrastive representation distillation, 2019, table 2 for each method added to
    logit distillation. arXiv:1910.10699
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from attrs import field, frozen
from attrs.validators import deep_iterable, ge
from torch import Tensor, nn

from learnforge import Batch, Criterion, Distiller, Layers, Outputs, Task, TaskInfo, hookimpl, plugin_field


@frozen
class Sum(Distiller):
    """Weighted sum of the losses of several distillers.

    Args:
        methods: The distillers, each a name or `{ use = "kd", temperature = 2.0 }`.
        weights: Weight of each one's loss, from 0; 1 by default.
    """

    methods: tuple[Distiller, ...] = plugin_field("distiller", many=True)
    weights: tuple[float, ...] = field(default=(), validator=deep_iterable(ge(0.0)))

    def __attrs_post_init__(self) -> None:
        if not self.methods:
            raise ValueError("methods must name at least one distiller, the list is empty")
        for method in self.methods:
            if method.trains_teacher or not method.shows_images or type(method).turns is not Distiller.turns:
                name = type(method).__name__
                raise ValueError(f"{name} trains more than the student, so it cannot be added to others")
        if self.weights and len(self.weights) != len(self.methods):
            raise ValueError(
                f"weights must be a number for each of {len(self.methods)} methods, got {list(self.weights)}"
            )

    @property
    def forms(self) -> frozenset[str] | None:  # type: ignore[override]
        """Forms of tasks that all of them are for; None for all forms."""
        known = [method.forms for method in self.methods if method.forms is not None]
        return frozenset.intersection(*known) if known else None

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return self._add([method.loss(student, teacher, batch) for method in self.methods])

    def needs_single_labels(self) -> bool:
        return any(method.needs_single_labels() for method in self.methods)

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        wanted = [method.taps(student, teacher) for method in self.methods]
        student_names, teacher_names = (
            [name for taps in side for name in taps] for side in zip(*wanted, strict=True)
        )
        return list(dict.fromkeys(student_names)), list(dict.fromkeys(teacher_names))

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> _Parts:
        return _Parts(self, student, teacher, task)

    def finish(self, student: nn.Module, criterion: Criterion, task: TaskInfo) -> nn.Module:
        assert isinstance(criterion, _Parts)
        for method, part in zip(self.methods, criterion.criteria, strict=True):
            student = method.finish(student, part, task)
        return student

    def _add(self, losses: Sequence[Tensor]) -> Tensor:
        weights = self.weights or (1.0,) * len(losses)
        return torch.stack([w * loss for w, loss in zip(weights, losses, strict=True)]).sum()


class _Parts(nn.Module):
    """The criteria of all methods."""

    def __init__(self, method: Sum, student: Outputs, teacher: Outputs, task: Task):
        super().__init__()
        self.method = method
        self.criteria = [part.criterion(student, teacher, task) for part in method.methods]
        self.modules_of_parts = nn.ModuleList(c for c in self.criteria if isinstance(c, nn.Module))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return self.method._add([criterion(student, teacher, batch) for criterion in self.criteria])


@hookimpl
def learnforge_distillers() -> dict[str, type[Distiller]]:
    return {"sum": Sum}
