"""Serial execution: every job runs at once in the process and thread that hands it in."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
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
            setup(slot, *arguments)
        return [_Inline() for _ in slots]


class _Inline(concurrent.futures.Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@hookimpl
def learnforge_executors() -> dict[str, type[Executor]]:
    return {"serial": Serial}
