"""Processes that work for another one."""

from __future__ import annotations

import concurrent.futures
import errno
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from learnforge_kit.errors import VanishedError


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

        context: Any = _Remembering(torch.multiprocessing.get_context("spawn"))
        # workers watch one end; the other is closed to end them, as there is no public way before Python 3.14
        watched, self._line = context.Pipe(duplex=False)
        self._started, self._processes_started = context.Event(), context.processes
        self._faults = context.SimpleQueue()
        start = (watched, self._started, self._faults, threads, setup, arguments)
        super().__init__(count, context, _start, start, max_tasks_per_child=jobs_each)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        with _interrupts_blocked():
            return super().submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait, cancel_futures=cancel_futures)
        if not wait:
            self.end()

    @property
    def has_started(self) -> bool:
        """Whether a process came up."""
        return bool(self._started.is_set())

    def why_broken(self) -> str:
        """Say what ended a process, once a job has raised `BrokenExecutor`."""
        # the pool's own thread waits for them too, and of two who wait one learns the status a moment later
        end = time.monotonic() + 5
        while None in (statuses := [p.exitcode for p in self._processes_started]) and time.monotonic() < end:
            time.sleep(0.01)
        killed = [signal.Signals(-status).name for status in statuses if status is not None and status < 0]
        if not self._faults.empty():
            return f"its process could not be prepared: {self._faults.get()}"
        if "SIGKILL" in killed:
            return "its process was killed, most likely since memory ran out; use fewer workers"
        # the others of a broken pool are ended by SIGTERM
        crashed = [name for name in killed if name != "SIGTERM"]
        if crashed:
            return f"its process crashed ({crashed[0]})"
        return "its process ended before its job did" if self.has_started else _why_not_started()

    def end(self) -> None:
        """End all processes at once; jobs that were not finished raise `BrokenExecutor`."""
        self._line.close()


class _Remembering:
    """A context of multiprocessing that keeps the last processes it made: their exit statuses say how they
    have ended.
    """

    def __init__(self, context: Any):
        self._context = context
        self.processes: deque[multiprocessing.Process] = deque(maxlen=64)

    def Process(self, *arguments: Any, **named: Any) -> multiprocessing.Process:  # noqa: N802 - multiprocessing's
        """Make a process."""
        process: multiprocessing.Process = self._context.Process(*arguments, **named)
        self.processes.append(process)
        return process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def _why_not_started() -> str:
    """Say why no process came up: most often because it imports a script that starts it anew."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is None or getattr(main, "__spec__", None) is not None:
        return "no process came up; what it said stands above"
    guard = 'import learnforge as lf\n\n    if __name__ == "__main__":\n        lf.run(…)'
    if not Path(file).is_file():
        return f"workers cannot import a script from standard input; save it in a file, with\n\n    {guard}"
    return (
        f"no process came up; what it said stands above. Workers import the script {file}: where that starts "
        f"the work again, put what it does under a guard:\n\n    {guard}"
    )


def environment_fault(error: BaseException) -> str:
    """Say which fault of the machine an error comes from, such as memory or a full disk; "" where it is one
    of the code that raised it.
    """
    if error.__cause__ is not None and (fault := environment_fault(error.__cause__)):
        return fault
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError) or any(words in text for words in _OUT_OF_MEMORY):
        return f"memory ran out ({text.splitlines()[0]}): use fewer workers or smaller batches"
    has_number = isinstance(error, OSError) and error.errno in _OF_THE_MACHINE
    if has_number or any(words in text for words in _OF_THE_DISK):
        return f"the machine lacks something ({text}): make room, and run it again"
    if isinstance(error, VanishedError):
        return str(error)
    if "is killed by signal" in text:
        return f"a process that loads data was killed ({text.splitlines()[0]})"
    return ""


_OUT_OF_MEMORY = ("OutOfMemoryError", "can't allocate memory", "out of memory", "STATUS_ALLOC_FAILED")
_OF_THE_DISK = ("No space left on device", "PytorchStreamWriter failed", "Input/output error")
_OF_THE_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EIO,
    errno.EROFS,
)


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


def _start(
    line: Connection,
    started: Event,
    faults: Any,
    threads: int,
    setup: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    import torch

    started.set()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent(line)
    torch.set_num_threads(threads)
    try:
        setup(*arguments)
    except Exception as error:
        faults.put(environment_fault(error) or f"{type(error).__name__}: {error}")
        raise
