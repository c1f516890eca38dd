"""The kind `space`: a family of networks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

from torch import nn

from learnforge.files import fingerprint
from learnforge.spec import TaskInfo

Choice = bool | int | float | str | None


Design = dict[str, Any]


class Pick(Protocol):
    """Makes the choices of a design. A searcher stands behind it; names identify a choice from trial
    to trial.

    Choices may depend on earlier ones: a space asks only for what the design needs.
    """

    def choice(self, name: str, choices: Sequence[Choice]) -> Any:
        """Pick one of several values, in no order."""

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        """Pick a whole number in [low, high]."""

    def number(self, name: str, low: float, high: float, log: bool = False) -> float:
        """Pick a number in [low, high]."""


class Space(ABC):
    """A family of networks: a frozen attrs class whose fields are the options in `space = { use = …, … }`.

    The search driver calls `design` once for each trial, where the search is driven, and `build` wherever
    that design is costed, trained or loaded.
    """

    smallest_image: ClassVar[int] = 8
    """Fewest pixels of height and width that all its networks take."""

    @abstractmethod
    def design(self, pick: Pick) -> Design:
        """Make the choices of one network.

        Returns:
            JSON-able data in normal form: choices that make the same network give equal designs.
        """

    @abstractmethod
    def build(self, design: Design, task: TaskInfo) -> nn.Module:
        """Build the network of a design, freshly initialised from torch's global generator.

        Args:
            design: What `design` returned, perhaps after a round trip through JSON.
            task: Gives the input shape and the number of outputs.

        Returns:
            A module from float [batch, channel, height, width] to float [batch, outputs].
        """

    def content(self) -> str:
        """Return a hash of the files that it reads, so that results depend on what is in them; "" where there
        are none. Files and folders that its options name count by themselves.
        """
        return ""


def design_key(design: Design) -> str:
    """Return a short key (16 hex digits) that equal designs share."""
    return fingerprint(design)[:16]
