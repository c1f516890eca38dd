"""Processes: every slot is a freshly spawned process of its own, so a job that dies takes one trial with it
and no other.

Tensors in the arguments are handed over in shared memory.

Reference:
    Python documentation, ProcessPoolExecutor.
    https://docs.python.org/3/library/concurrent.futures.html#processpoolexecutor
"""

from __future__ import annotations

import concurrent.futures
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from attrs import frozen

from learnforge import Executor, Slot, hookimpl
from learnforge_kit import (
    end_with_parent,
)


@frozen
class Processes(Executor):
    """One spawned process for each slot. It has no options."""

    isolates: ClassVar[bool] = True

    def open(
        self, slots: Sequence[Slot], setup: Callable[..., None], arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        import torch.multiprocessing

        context = torch.multiprocessing.get_context("spawn")
        return [_Process(1, context, _start, (slot, setup, arguments)) for slot in slots]


class _Process(concurrent.futures.ProcessPoolExecutor):
    """Ends its process at once where nobody waits for the job that runs in it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        with _deaf():
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        processes = list((self._processes or {}).values())
        super().shutdown(wait, cancel_futures=cancel_futures)
        for process in [] if wait else processes:
            process.terminate()


@contextmanager
def _deaf() -> Iterator[None]:
    """Let a process that starts in this block ignore Ctrl-C from its start: the driver handles
    it, after the block if it comes meanwhile.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(slot: Slot, setup: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    end_with_parent()
    torch.set_num_threads(slot.threads)
    setup(slot, *arguments)


@hookimpl
def learnforge_executors() -> dict[str, type[Executor]]:
    return {"processes": Processes}
