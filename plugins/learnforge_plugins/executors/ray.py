"""Ray: every slot is an actor in a Ray cluster, on this machine or on others.

Reference:
    Moritz et al., Ray: a distributed framework for emerging AI applications, 2018. arXiv:1712.05889
    https://docs.ray.io/en/latest/ray-core/actors.html
"""

from __future__ import annotations

import collections
import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from attrs import field, frozen
from attrs.validators import gt

from learnforge import Executor, Slot, hookimpl
from learnforge.randomness import preserved

_Future = concurrent.futures.Future[Any]


@frozen
class Ray(Executor):
    """One actor for each slot; needs `pip install "learnforge[ray]"`.

    Args:
        address: A cluster's address, or `auto` for the one that this machine belongs to; by default a
            cluster is started on this machine and ended with the search.
        gpus: GPUs of a slot, above 0, where its device is one; a fraction lets slots share one.
    """

    isolates: ClassVar[bool] = True

    address: str | None = None
    gpus: float = field(default=1.0, validator=gt(0.0))

    def open(
        self, slots: Sequence[Slot], setup: Callable[..., None], arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        try:
            import ray
        except ImportError as error:
            raise ImportError(
                f'the executor ray needs Ray: pip install "learnforge[ray]" ({error})'
            ) from error

        if not ray.is_initialized():
            quiet: dict[str, Any] = {
                "log_to_driver": False,
                "include_dashboard": False,
                "logging_level": "error",
            }
            with preserved():  # Ray draws from Python's generator
                ray.init(address=self.address, **quiet)
            _CLUSTER.is_own = self.address is None
        return [_Actor(slot, self._resources(slot), setup, arguments) for slot in slots]

    def _resources(self, slot: Slot) -> dict[str, float]:
        """Return what Ray reserves for a slot; in a cluster of its own the slots alone say what runs at
        once.
        """
        gpus = self.gpus if slot.device.startswith("cuda") else 0.0
        return {"num_cpus": 0 if _CLUSTER.is_own else slot.threads, "num_gpus": gpus}


class _Cluster:
    """The cluster that this process is connected to.

    Attributes:
        is_own: Whether it was started here, to be ended with its last actor.
        actors: Those that are open.
    """

    def __init__(self) -> None:
        self.is_own = False
        self.actors: set[_Actor] = set()


_CLUSTER = _Cluster()


class _Actor(concurrent.futures.Executor):
    """Hands jobs to one actor, and turns its death into `BrokenExecutor`."""

    def __init__(
        self,
        slot: Slot,
        resources: dict[str, float],
        setup: Callable[..., None],
        arguments: tuple[Any, ...],
    ):
        import ray

        self._worker: Any = (
            ray.remote(_Worker).options(max_restarts=0, **resources).remote(slot, setup, arguments)
        )
        _CLUSTER.actors.add(self)
        self._is_shut = False
        self._queue: collections.deque[tuple[_Future, tuple[Any, ...]]] = collections.deque()
        self._running: _Future | None = None
        self._lock = threading.RLock()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> _Future:
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            future: _Future = concurrent.futures.Future()
            self._queue.append((future, (fn, args, kwargs)))
            self._next()
            return future

    def _next(self) -> None:
        """Hand the next job to the actor, if it has none; jobs that wait can still be cancelled."""
        with self._lock:
            while self._queue and self._running is None:
                future, job = self._queue.popleft()
                if future.set_running_or_notify_cancel():
                    self._running = future
                    self._worker.run.remote(*job).future().add_done_callback(self._done)

    def _done(self, done: _Future) -> None:
        with self._lock:
            future, self._running = self._running, None
        if future is not None:
            _settle(done, future)
        self._next()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        import ray

        with self._lock:
            is_first, self._is_shut = not self._is_shut, True
            waiting = [future for future, _ in self._queue]
            running = [self._running] if self._running is not None else []
        for future in waiting if cancel_futures else ():
            future.cancel()
        if wait:
            concurrent.futures.wait([*running, *waiting])
        if is_first:
            _CLUSTER.actors.discard(self)
            if ray.is_initialized():
                ray.kill(self._worker)
            if _CLUSTER.is_own and not _CLUSTER.actors:
                ray.shutdown()


def _settle(done: _Future, future: _Future) -> None:
    from ray.exceptions import RayActorError, RayTaskError

    error = done.exception()
    if error is None:
        future.set_result(done.result())
    elif isinstance(error, RayActorError):
        future.set_exception(concurrent.futures.BrokenExecutor(f"a Ray actor died: {error}"))
    else:
        cause = error.cause if isinstance(error, RayTaskError) else None
        future.set_exception(cause if isinstance(cause, BaseException) else error)


class _Worker:
    """What runs in the actor."""

    def __init__(self, slot: Slot, setup: Callable[..., None], arguments: tuple[Any, ...]):
        import torch

        torch.set_num_threads(slot.threads)
        setup(slot, *arguments)

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return fn(*args, **kwargs)


@hookimpl
def learnforge_executors() -> dict[str, type[Executor]]:
    return {"ray": Ray}
