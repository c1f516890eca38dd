"""What every form of tasks must keep to: a loss that leads to good answers, and measures that know them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from learnforge.kinds.form import Form
from learnforge.kinds.task import Task
from learnforge.spec import TaskInfo
from learnforge_kit.data.splits import MemorySplit
from learnforge_kit.drawing import permutation
from learnforge_testing.method import MethodSuite
from learnforge_testing.network import make_info
from learnforge_testing.suite import needs, require

COUNT, STEPS, RATE = 64, 300, 0.1

_has_targets = needs(lambda suite: suite.method.has_targets, "the form has no targets")


class FormSuite(MethodSuite):
    """Checks of a form on random outputs, whose answers are the targets.

    Args:
        shape: Shape of an input, where the form's outputs depend on it.
        classes: Classes of the task, or its columns of numbers.
    """

    kind: ClassVar[str] = "form"
    base: ClassVar[type] = Form
    needs_reference: ClassVar[bool] = False
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)
    classes: ClassVar[int] = 3

    def result(self) -> Any:
        info, form = self._info(), self.make()
        if not form.has_targets:
            return [form.outputs(info), list(form.measured)]
        outputs, targets = self._outputs(0), self._targets()
        return [form.outputs(info), form.loss(outputs, targets), form.measures(outputs, targets, info)]

    def test_what_it_measures_is_named(self) -> None:
        """`measured` names at least one measure, none twice, and `meaning` says what outputs are."""
        names = list(self.method.measured)
        require(names and len(set(names)) == len(names), f"`measured` must name measures once, got {names}")
        require("loss" not in names, "`measured` must not hold `loss`, which every form has")
        require(self.method.meaning, "`meaning` must say what outputs are")

    @_has_targets
    def test_loss_is_a_scalar(self) -> None:
        """The loss is finite, a scalar, and has a gradient to the outputs, with smoothing as well."""
        form, targets = self.make(), self._targets()
        for smoothing in (0.0, 0.1):
            outputs = self._outputs(0).requires_grad_()
            loss = form.loss(outputs, targets, smoothing)
            require(
                isinstance(loss, Tensor) and loss.ndim == 0 and bool(loss.isfinite()),
                f"the loss must be a finite scalar tensor, got {loss!r:.200}",
            )
            (gradient,) = torch.autograd.grad(loss, outputs)
            require(
                bool(gradient.isfinite().all()) and bool(gradient.any()),
                "the loss must have a finite gradient to the outputs that is not zero",
            )

    @_has_targets
    def test_measures_are_finite_numbers(self) -> None:
        """`measures` gives a finite float for each name in `measured`, and nothing else."""
        found = self.make().measures(self._outputs(0), self._targets(), self._info())
        require(
            isinstance(found, Mapping) and set(found) == set(self.method.measured),
            f"`measures` must give {list(self.method.measured)}, got {found!r:.200}",
        )
        odd = {n: v for n, v in found.items() if not isinstance(v, float) or not math.isfinite(v)}
        require(not odd, f"measures must be finite floats, got {odd}")

    @_has_targets
    def test_lower_loss_is_better(self) -> None:
        """Outputs that go down the loss answer as the targets say, and the first measure is the better for
        it; so targets are what `answers` writes.
        """
        form, targets, info = self.make(), self._targets(), self._info()
        outputs = self._outputs(0).requires_grad_()
        before = form.measures(outputs.detach(), targets, info)[form.measured[0]]
        optimizer = torch.optim.Adam([outputs], RATE)
        for _ in range(STEPS):
            optimizer.zero_grad()
            form.loss(outputs, targets).backward()
            optimizer.step()
        after = form.measures(outputs.detach(), targets, info)[form.measured[0]]
        require(
            after > before,
            f"{STEPS} steps down the loss must raise {form.measured[0]!r}, of which more is better; it went "
            f"from {before:.4f} to {after:.4f}",
        )

    @_has_targets
    def test_right_answers_are_best(self) -> None:
        """Outputs that are answered by the targets measure as well as any."""
        form, info = self.make(), self._info()
        outputs = self._outputs(1)
        best = form.measures(outputs, form.answers(outputs), info)[form.measured[0]]
        other = form.measures(self._outputs(0), form.answers(outputs), info)[form.measured[0]]
        require(best >= other, f"right answers must measure best, they get {best:.4f} and others {other:.4f}")

    @_has_targets
    def test_order_does_not_matter(self) -> None:
        """Inputs in another order have the same loss and the same measures, to rounding."""
        form, info, order = self.make(), self._info(), permutation(0, COUNT)
        outputs, targets = self._outputs(0), self._targets()
        pairs = [(outputs, targets), (outputs[order], targets[order])]
        losses = [float(form.loss(*pair)) for pair in pairs]
        found = [form.measures(*pair, info) for pair in pairs]
        require(math.isclose(*losses, rel_tol=1e-4), f"losses must be equal in any order, got {losses}")
        far = [n for n in found[0] if not math.isclose(found[0][n], found[1][n], rel_tol=1e-4, abs_tol=1e-6)]
        require(not far, f"measures must be equal in any order, {far} are not")

    @_has_targets
    def test_outputs_and_targets_are_left_alone(self) -> None:
        """Neither outputs nor targets are changed."""
        form, info = self.make(), self._info()
        outputs, targets = self._outputs(0), self._targets()
        before = outputs.clone(), targets.clone()
        form.loss(outputs, targets, 0.1), form.answers(outputs), form.measures(outputs, targets, info)
        require(
            torch.equal(outputs, before[0]) and torch.equal(targets, before[1]),
            "outputs and targets must stay as they are",
        )

    @_has_targets
    def test_its_own_targets_are_accepted(self) -> None:
        """`fault` finds nothing in a task whose targets are answers, and says so in words otherwise."""
        form, targets = self.make(), self._targets()
        images = torch.zeros(COUNT, *self.shape, dtype=torch.uint8)
        split = MemorySplit(images, targets)
        fault = form.fault(Task(self._info(), split, split, split))
        require(fault == "", f"`fault` must accept what `answers` writes, it says {fault!r}")

    @needs(lambda suite: suite.method.names_one_class, "a target of the form is not one class")
    def test_a_target_is_one_class(self) -> None:
        """Answers are int64 [batch], in [0, classes), and outputs scores of the classes."""
        answers, info = self._targets(), self._info()
        require(
            answers.dtype == torch.int64 and answers.shape == (COUNT,),
            f"answers must be int64 [{COUNT}], got {answers.dtype} {list(answers.shape)}",
        )
        shape = self.make().outputs(info)
        require(shape == (len(info.classes),), f"outputs must be a score for each class, got {shape}")

    def _info(self) -> TaskInfo:
        return make_info(self.shape, self.classes)

    def _outputs(self, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(COUNT, *self.make().outputs(self._info()), generator=generator)

    def _targets(self) -> Tensor:
        answers: Tensor = self.make().answers(self._outputs(7))
        return answers
