"""The kind `executor`: opens places where trials run."""

from __future__ import annotations

import concurrent.futures
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from attrs import frozen


@frozen
class Slot:
    """One place where work can run.

    Args:
        threads: CPU threads that torch may use there.
        device: Device for the work, as torch spells it.
    """

    threads: int = 1
    device: str = "cpu"


class Executor(ABC):
    """A method of the kind `executor`: opens places to work.

    The search driver calls `open` at its start, and again with one slot after a worker was lost. A lost
    worker shows as a future that raises `concurrent.futures.BrokenExecutor`; the trial is run once more.
    """

    isolates: ClassVar[bool] = False
    """Whether a job that kills its process leaves the driver and the other slots alive."""

    @abstractmethod
    def open(
        self, slots: Sequence[Slot], setup: Callable[..., None], arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        """Open one executor for each slot; each runs one job at a time, with the slot's threads.

        Args:
            slots: What each executor may use.
            setup: Called once as `setup(slot, *arguments)` where the jobs run, before the first; picklable.
            arguments: Picklable values for `setup`.
        """
