"""The kind `change`: an edit of a network as data, which is made again wherever its artifact is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import nn

from learnforge.errors import StageError
from learnforge.spec import TaskInfo


class Change(ABC):
    """A method of the kind `change`: a frozen attrs class whose fields say what is edited.

    A method makes it with `apply_change`, which writes it down; artifacts keep its name and its fields, and
    `NetworkSpec.build` makes it again. Weights are no part of it: those that it adds are initialised from
    torch's global generator, and loaded over afterwards.
    """

    name: ClassVar[str]
    """The name that it is registered by, which artifacts keep."""

    follows_task: ClassVar[bool] = False
    """Whether a model or a space that is built for another task has it already, as it has a head for the
    task's classes. It is then kept for a caller's own module alone."""

    @abstractmethod
    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        """Return the changed network; may change and return what it is given.

        The same fields, network and task make the same layers and names, on the device that the network is
        on, torch's `meta` among them.

        Args:
            network: The network; the copy is the change's own.
            task: What the changed network is for: it takes images of `task.input_shape` and puts out
                `task.outputs` class scores.
        """

    def undo(self, network: nn.Module) -> nn.Module:
        """Return the network without the change, what was learnt in it merged into the layers around it, as
        low-rank adapters are; refused by default.
        """
        raise StageError(f"the change {self.name!r} cannot be undone")
