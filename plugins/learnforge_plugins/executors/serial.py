"""Serial execution: every job runs at once in the process and thread that hands it in.

Reference:
    PEP 3148: futures, execute computations asynchronously. https://peps.python.org/pep-3148/
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from attrs import frozen

from learnforge import Executor, Slot, hookimpl


@frozen
class Serial(Executor):
    """One job after the other, in this process. It has no options."""

    def open(
        self, slots: Sequence[Slot], setup: Callable[..., None], arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        for slot in slots:
            with _using(slot.threads):
                setup(slot, *arguments)
        return [_Inline(slot.threads) for slot in slots]


class _Inline(concurrent.futures.Executor):
    def __init__(self, threads: int):
        self.threads = threads

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            with _using(self.threads):
                future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _using(threads: int) -> Iterator[None]:
    """Let torch use so many threads in a block, and as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@hookimpl
def learnforge_executors() -> dict[str, type[Executor]]:
    return {"serial": Serial}
