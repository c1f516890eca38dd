"""Distillation: the kind of stage `distill`, the hole that a distiller fills, and the loop around it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from learnforge.artifact import Artifact, Provenance, copy_weights, trained_on
from learnforge.context import Context
from learnforge.errors import Problem, StageError
from learnforge.evaluation import Normaliser, evaluate, predict, score
from learnforge.heads import count_parameters
from learnforge.hookspecs import hookimpl
from learnforge.options import plugin_field
from learnforge.randomness import seeded
from learnforge.stages.measures import judge, weigh
from learnforge.stages.stage import Reference, Stage, check_fit
from learnforge.taps import Outputs, Tapped
from learnforge.task import Batch, Task
from learnforge.training import Train, Trainee, cross_entropy, fit

Criterion = Callable[[Outputs, Outputs, Batch], Tensor]


class Distiller(ABC):
    """A method of the kind `distiller`: a frozen attrs class with a loss.

    The core calls `taps` once, then `criterion` once, then what `criterion` returned for every batch, with
    the student in training mode and the teacher frozen, in eval mode and without gradient.
    """

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = None
    """A claim: options under which the loss is the soft term alone, zero and without gradient where the
    student's outputs equal the teacher's. None claims nothing.
    """

    @abstractmethod
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the scalar loss of a batch.

        Args:
            student: Class scores [batch, class] and taps of the student.
            teacher: The same of the teacher, without gradient.
            batch: Images, labels, indices and views.
        """

    def taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        """Name the layers of student and teacher whose outputs the loss needs; none by default."""
        return (), ()

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Criterion:
        """Return what is called for every batch: the method's own `loss` by default.

        A method with connectors or a memory bank returns an `nn.Module` called as `module(student, teacher,
        batch)`; its parameters are trained with the student's, its buffers are checkpointed, and it is
        dropped at the end.

        Args:
            student: Outputs for a few training images, for shapes.
            teacher: The same of the teacher.
            task: Sizes of the splits, classes.
        """
        return self.loss


@frozen(kw_only=True)
class DistillStage(Stage):
    """Teach a student network what a teacher knows.

    Args:
        teacher: A stage, an artifact's folder, or a model; the stage above by default.
        student: A model, or a stage or artifact to go on from.
        train: How the student is trained.
        baseline: Train the same student, from the same initial weights, with the same budget and without the
            teacher, and report both.
    """

    teacher: Reference = plugin_field("model", default=None, reference=True)
    student: Reference = plugin_field("model", reference=True)
    train: Train = Train()
    baseline: bool = field(default=True)

    kind: ClassVar[str] = "distill"
    method_kind: ClassVar[str] = "distiller"
    method_base: ClassVar[type] = Distiller

    def check(self, task: Task, inputs: Mapping[str, Artifact]) -> list[Problem]:
        return [
            fault
            for role in ("teacher", "student")
            for fault in check_fit(role, inputs[role].task, task.info)
        ]

    def output(self, task: Task, inputs: Mapping[str, Artifact]) -> Artifact:
        return evolve(inputs["student"], weights=None)

    def for_trial(self) -> DistillStage:
        return evolve(self, baseline=False)

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        here = task.load(context.device)
        teacher = inputs["teacher"].network(context.plugins, context.derive("teacher")).to(context.device)
        student = inputs["student"].network(context.plugins, context.derive("student")).to(context.device)
        initial = copy_weights(student)
        history = {"student": self._distil(student, teacher, here, context)}
        metrics = judge(student, here) | weigh(student, here) | judge(teacher, here, "teacher_")
        metrics["teacher_parameters"] = count_parameters(teacher)
        metrics["agreement"] = _agreement(student, teacher, here)
        weights = copy_weights(student)
        if self.baseline:
            student.load_state_dict(initial)
            alone = Trainee(student, cross_entropy(student, self.train))
            history["baseline"] = self._fit(alone, here, context, "baseline")
            metrics |= judge(student, here, "baseline_")
        student.load_state_dict(weights)
        learnt = trained_on(task.info.name, task.origins_of(task.train), task.train)
        return evolve(
            inputs["student"],
            weights=weights,
            adapter={},
            adapter_options={},
            task=task.info,
            metrics=metrics | {"history": history},
            provenance=Provenance(trained_on=(learnt,)),
        )

    def _distil(
        self, student: nn.Module, teacher: nn.Module, task: Task, context: Context
    ) -> list[dict[str, Any]]:
        teacher.eval().requires_grad_(False)
        before = copy_weights(teacher)
        student_layers, teacher_layers = self.method.taps(student, teacher)
        pupil, master = Tapped(student, student_layers), Tapped(teacher, teacher_layers)
        criterion = self._criterion(pupil, master, task, context)

        def loss(batch: Batch) -> Tensor:
            with torch.no_grad():
                known = master(batch.images)
            return criterion(pupil(batch.images), known, batch)

        extra = criterion if isinstance(criterion, nn.Module) else None
        trainee = Trainee(student, loss, extra=extra)
        try:
            history = self._fit(trainee, task, context, "student")
        finally:
            pupil.close()
            master.close()
        if not _is_equal(before, copy_weights(teacher)):
            raise StageError(
                f"the distiller {type(self.method).__name__} changed its teacher, which must stay as it is"
            )
        return history

    def _criterion(self, pupil: Tapped, master: Tapped, task: Task, context: Context) -> Criterion:
        """Ask the method for its criterion, with the outputs for a few images to read shapes from."""
        images, _, _ = next(iter(task.train.batches(torch.arange(min(4, len(task.train))), 4)))
        images = Normaliser(task.info, context.device)(images)
        pupil.network.eval()
        with torch.no_grad(), seeded(context.derive("criterion")):
            criterion: Criterion = self.method.criterion(pupil(images), master(images), task)
        if isinstance(criterion, nn.Module):
            criterion.to(context.device)
        return criterion

    def _fit(self, trainee: Trainee, task: Task, context: Context, part: str) -> list[dict[str, Any]]:
        """Train with the stage's settings; student and baseline see the same batches."""
        return fit(
            trainee,
            task.train,
            task.info,
            self.train,
            evolve(context, seed=context.derive("train")),
            part,
            lambda: evaluate(trainee.network, task.validation, task.info).accuracy,
        )


def _agreement(student: nn.Module, teacher: nn.Module, task: Task) -> float:
    """Return the share of test images for which student and teacher name the same class."""
    labels = predict(teacher, task.test, task.info).argmax(1)
    return score(predict(student, task.test, task.info), labels).accuracy


def _is_equal(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Compare bit for bit; NaNs are equal to themselves."""
    return all(torch.equal(_bytes(tensor), _bytes(second[name])) for name, tensor in first.items())


def _bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's bytes, whatever its layout: uint8 [byte]."""
    return tensor.contiguous().flatten().view(torch.uint8)


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `distill`."""
    return {"distill": DistillStage}
