"""Ray: every slot is an actor in a Ray cluster, on this machine or on others.

Reference:
    Moritz et al., Ray: a distributed framework for emerging AI applications, 2018. arXiv:1712.05889
    https://docs.ray.io/en/latest/ray-core/actors.html
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from attrs import field, frozen
from attrs.validators import gt

from learnforge import Executor, Slot, hookimpl


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
            ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
        return [_Actor(slot, self._gpus(slot), setup, arguments) for slot in slots]

    def _gpus(self, slot: Slot) -> float:
        return self.gpus if slot.device.startswith("cuda") else 0.0


class _Actor(concurrent.futures.Executor):
    """Hands jobs to one actor, and turns its death into `BrokenExecutor`."""

    def __init__(self, slot: Slot, gpus: float, setup: Callable[..., None], arguments: tuple[Any, ...]):
        import ray

        resources: dict[str, Any] = {"num_cpus": slot.threads, "num_gpus": gpus, "max_restarts": 0}
        self._worker: Any = ray.remote(_Worker).options(**resources).remote(slot, setup, arguments)
        self._is_shut = False
        self._futures: list[concurrent.futures.Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        self._futures = [f for f in self._futures if not f.done()] + [future]
        self._worker.run.remote(fn, args, kwargs).future().add_done_callback(
            lambda done: _settle(done, future)
        )
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        import ray

        if not self._is_shut:
            self._is_shut = True
            if wait:
                concurrent.futures.wait(self._futures)
            if ray.is_initialized():
                ray.kill(self._worker)


def _settle(done: concurrent.futures.Future[Any], future: concurrent.futures.Future[Any]) -> None:
    from ray.exceptions import RayActorError, RayTaskError

    error = done.exception()
    if error is None:
        future.set_result(done.result())
    elif isinstance(error, RayActorError):
        broken = concurrent.futures.process.BrokenProcessPool(f"a Ray actor died: {error}")
        future.set_exception(broken)
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
