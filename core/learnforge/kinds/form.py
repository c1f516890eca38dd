"""The kind `form`: what a task's targets are, and how a network's outputs are judged by them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from learnforge.plugins.identity import recall
from learnforge.plugins.registry import Plugins

if TYPE_CHECKING:
    from learnforge.kinds.task import Task
    from learnforge.spec import TaskInfo


class Form(ABC):
    """A method of the kind `form`: an attrs class without options, which a task names, `TaskInfo(form = …)`.

    Targets are what splits hold as labels: a tensor whose first axis is the input.
    """

    measured: ClassVar[Sequence[str]]
    """Names of what `measures` gives. Stages choose by the first of them, of which more is better."""

    errors: ClassVar[Sequence[str]] = ()
    """Those of `measured` of which less is better; an objective that names one has a minus before it."""

    meaning: ClassVar[str] = "outputs"
    """What the numbers are that a network puts out, in words, for who runs an exported file."""

    has_targets: ClassVar[bool] = True
    """Whether there are targets to judge outputs by; without, episodes judge them."""

    names_one_class: ClassVar[bool] = False
    """Whether a target is one class, int64 [batch], and outputs are scores of the classes, [batch, class]:
    then reports show confusions and how confident a network is."""

    def outputs(self, task: TaskInfo) -> tuple[int, ...]:
        """Return the shape of a network's outputs for one input; by default there are `task.outputs`."""
        return (task.outputs,)

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the scalar loss of a batch.

        Args:
            outputs: A network's, [batch, …] as `outputs` says.
            targets: The batch's.
            smoothing: Share of a target that is to be spread over the classes, in [0, 1), where that is
                possible.
        """

    @abstractmethod
    def answers(self, outputs: Tensor) -> Tensor:
        """Return what outputs say, written as targets are."""

    def shown(self, outputs: Tensor) -> Tensor:
        """Return what people are told of outputs, such as probabilities; by default the outputs."""
        return outputs

    @abstractmethod
    def measures(self, outputs: Tensor, targets: Tensor, task: TaskInfo) -> Mapping[str, float]:
        """Return how good the outputs for a whole split are, by the names in `measured`."""

    def fault(self, task: Task) -> str:
        """Say why a task's targets are not of this form, or ""."""
        return ""


def form_of(name: str) -> Form:
    """Return the form of a name: one that this process has loaded, or else what an installed plugin brings.

    Raises:
        PluginError: There is none.
    """
    found: Form = (recall("form", name) or Plugins().load("form", name, Form))()
    return found
