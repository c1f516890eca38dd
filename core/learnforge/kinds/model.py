"""The kind `model`: one network with options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from learnforge.spec import TaskInfo


class Model(ABC):
    """One network with options: a frozen attrs class, `{ use = …, … }` wherever a recipe wants a model."""

    smallest_image: ClassVar[int] = 8
    """Fewest pixels of height and width that its network takes."""

    forms: ClassVar[frozenset[str] | None] = None
    """Forms of tasks that it is for; None for all of them."""

    @abstractmethod
    def build(self, task: TaskInfo) -> nn.Module:
        """Build the network, initialised from torch's global generator or with its pretrained weights;
        see `Space.build`.
        """

    def require(self) -> None:
        """Raise an error that says what is missing if `build` needs files that are not there; called by
        the checks.
        """

    def without_pretrained(self) -> Model:
        """Return the same model without pretrained weights; itself, unless it has such an option."""
        return self

    def is_trained_for(self, task: TaskInfo) -> bool:
        """Tell whether its network comes with weights for a task's classes, the head included: such a one may
        teach as it is.
        """
        return False

    def changes(self, task: TaskInfo) -> list[str]:
        """Say what of its pretrained network is changed for a task; nothing by default."""
        return []

    def content(self) -> str:
        """Return a hash of the files that `build` reads, so that results depend on what is in them; "" where
        there are none. Files and folders that its options name count by themselves.
        """
        return ""

    def family(self) -> Sequence[Model]:
        """Return this model in other sizes, from which assistants between a teacher and a student are
        chosen; none by default.
        """
        return ()
