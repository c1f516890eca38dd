"""Processes: every slot is a freshly spawned process of its own, so a job that dies takes one trial with it
and no other.

Tensors in the arguments are handed over in shared memory.

Reference:
    Python documentation, ProcessPoolExecutor.
    https://docs.python.org/3/library/concurrent.futures.html#processpoolexecutor
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from attrs import frozen

from learnforge import Executor, Slot, hookimpl
from learnforge_kit import Workers


@frozen
class Processes(Executor):
    """One spawned process for each slot. It has no options."""

    isolates: ClassVar[bool] = True

    def open(
        self, slots: Sequence[Slot], setup: Callable[..., None], arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        return [Workers(1, slot.threads, setup, (slot, *arguments)) for slot in slots]


@hookimpl
def learnforge_executors() -> dict[str, type[Executor]]:
    return {"processes": Processes}
