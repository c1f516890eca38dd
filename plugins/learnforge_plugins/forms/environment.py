"""Environments: a policy's outputs are actions' means and deviations, judged by the return of rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, NoReturn

from attrs import frozen
from torch import Tensor

from learnforge import Form, StageError, Task, TaskInfo, hookimpl


@frozen
class Environment(Form):
    """Environments, which have episodes and no targets: meta-learners judge their policies by the return."""

    measured: ClassVar[Sequence[str]] = ("return",)
    has_targets: ClassVar[bool] = False
    meaning: ClassVar[str] = "means of actions, then logarithms of their standard deviations"

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> NoReturn:
        raise StageError("an environment has no targets that a loss could compare outputs with")

    def answers(self, outputs: Tensor) -> Tensor:
        return outputs

    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        raise StageError("outputs for an environment are judged by rollouts, not by targets")

    def fault(self, task: Task) -> str:
        return "an environment brings episodes of its own, and no splits"


@hookimpl
def learnforge_forms() -> dict[str, type[Form]]:
    return {"environment": Environment}
