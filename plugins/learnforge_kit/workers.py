"""Processes that work for another one."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any


class Workers(concurrent.futures.ProcessPoolExecutor):
    """Freshly spawned processes that run jobs, and end when this process is gone.

    Ctrl-C does not reach them: it is this process that handles it. `end`, or `shutdown(wait=False)`, ends
    them at once, whatever they are doing; the pool must be kept for as long as its jobs run.

    Args:
        count: Processes at a time, from 1.
        threads: CPU threads of torch in each.
        setup: Called as `setup(*arguments)` in each process before its first job; picklable.
        arguments: Picklable values for `setup`; tensors are handed over in shared memory.
        jobs_each: Jobs of a process, after which a fresh one takes its place; None for no limit.
    """

    def __init__(
        self,
        count: int,
        threads: int,
        setup: Callable[..., None],
        arguments: tuple[Any, ...] = (),
        jobs_each: int | None = None,
    ):
        import torch.multiprocessing

        context = torch.multiprocessing.get_context("spawn")
        # workers watch one end; the other is closed to end them, as there is no public way before Python 3.14
        watched, self._line = context.Pipe(duplex=False)
        start = (watched, threads, setup, arguments)
        super().__init__(count, context, _start, start, max_tasks_per_child=jobs_each)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        with _interrupts_blocked():
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if not wait:
            self.end()

    def end(self) -> None:
        """End all processes at once; jobs that were not finished raise `BrokenExecutor`."""
        self._line.close()


def end_with_parent(line: Connection | None = None) -> None:
    """Let this process end when the one that started it is gone, which cannot say so when it is killed.

    Args:
        line: One end of a pipe; this process also ends when its other end is closed.
    """
    threading.Thread(target=_wait_for_parent, args=(line,), daemon=True).start()


def _wait_for_parent(line: Connection | None) -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel, *([] if line is None else [line])])
        # not sys.exit, which would end this thread alone
        os._exit(1)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Start processes in this block that ignore Ctrl-C from their first moment; one that comes meanwhile is
    handled here after the block.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(line: Connection, threads: int, setup: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(line)
    torch.set_num_threads(threads)
    setup(*arguments)
