"""The suite of forms: right ones pass, and each check fails for a form that is wrong in just that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest
import torch
from attrs import frozen
from tests.testing.breadth import BREADTHS, failed_checks
from torch import Tensor

from learnforge import Form, Task, TaskInfo
from learnforge_testing import FormSuite


@frozen
class Numbers(Form):
    """Numbers, judged by the mean squared error."""

    measured: ClassVar[Sequence[str]] = ("closeness", "mse")
    meaning: ClassVar[str] = "numbers"

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return (outputs - targets).square().mean()

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        error = float((outputs - targets).square().mean())
        return {"closeness": -error, "mse": error}


@frozen
class Signs(Numbers):
    """Classes by the largest output, without an option to smooth."""

    measured: ClassVar[Sequence[str]] = ("accuracy",)
    names_one_class: ClassVar[bool] = True

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets)

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets).double().mean())}


@frozen
class Nameless(Numbers):
    """Measures the loss, which every form has, under its own name."""

    measured: ClassVar[Sequence[str]] = ("closeness", "loss")

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        error = float((outputs - targets).square().mean())
        return {"closeness": -error, "loss": error}


@frozen
class Listed(Numbers):
    """Has a loss for each input."""

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return (outputs - targets).square().mean(1)


@frozen
class Silent(Numbers):
    """Leaves one of its measures out."""

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        return {"closeness": Numbers.measures(self, outputs, targets, task)["closeness"]}


@frozen
class Upwards(Numbers):
    """Its first measure is better where there is less of it."""

    measured: ClassVar[Sequence[str]] = ("mse", "closeness")


@frozen
class Backwards(Numbers):
    """Answers the contrary of what its measures compare."""

    def answers(self, outputs: Tensor) -> Tensor:
        return -outputs


@frozen
class First(Numbers):
    """Counts the first inputs more."""

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        weights = torch.linspace(2, 0.1, len(outputs))[:, None]
        return (weights * (outputs - targets).square()).mean()


@frozen
class Rounding(Numbers):
    """Rounds the targets in place."""

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        found = Numbers.measures(self, outputs, targets, task)
        targets.mul_(1000).round_().div_(1000)
        return found


@frozen
class Choosy(Numbers):
    """Refuses its own answers."""

    def fault(self, task: Task) -> str:
        return "never right"


@frozen
class Pairs(Signs):
    """Says that a target is one class, and has two columns of them."""

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets[:, 0])

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(1)[:, None].expand(-1, 2)

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        return {"accuracy": float((outputs.argmax(1) == targets[:, 0]).double().mean())}


FAULTS: list[tuple[type[Form], list[str]]] = [
    (Nameless, ["what_it_measures_is_named"]),
    (Listed, ["loss_is_a_scalar", "lower_loss_is_better", "order_does_not_matter"]),
    (Silent, ["measures_are_finite_numbers"]),
    (Upwards, ["lower_loss_is_better", "right_answers_are_best"]),
    (Backwards, ["right_answers_are_best"]),
    (First, ["order_does_not_matter"]),
    (Rounding, ["outputs_and_targets_are_left_alone"]),
    (Choosy, ["its_own_targets_are_accepted"]),
    (Pairs, ["a_target_is_one_class"]),
]


@pytest.mark.parametrize("method", [Numbers, Signs])
def test_right_forms_pass(method: type[Form]) -> None:
    """Whatever they measure."""
    assert [outcome for outcome in FormSuite.of(method).run() if outcome.state == "failed"] == []


@BREADTHS
@pytest.mark.parametrize(("method", "broken"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_fault_fails_its_check(method: type[Form], broken: list[str], breadth: str) -> None:
    """The one that is meant for it, and no other."""
    assert list(failed_checks(FormSuite.of(method), broken, breadth)) == broken


def test_every_check_of_the_kind_has_a_fault() -> None:
    """No check of forms is left that nothing has turned red."""
    own = {name.removeprefix("test_") for name in vars(FormSuite) if name.startswith("test_")}
    assert own == {name for _, names in FAULTS for name in names}
