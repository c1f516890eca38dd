"""Ray: every slot is an actor in a Ray cluster, on this machine or on others.

Reference:
    Moritz et al., Ray: a distributed framework for emerging AI applications, 2018. arXiv:1712.05889
    https://docs.ray.io/en/latest/ray-core/actors.html
"""

from __future__ import annotations

import concurrent.futures
import logging
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from attrs import evolve, field, frozen
from attrs.validators import gt

from learnforge import Executor, Slot, hookimpl, preserved


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

        with preserved():  # Ray draws from Python's generator
            if not ray.is_initialized():
                ray.init(
                    address=self.address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False,
                )
                _CLUSTER.is_own = self.address is None
            elif not _CLUSTER.actors:
                _CLUSTER.is_own = False  # the caller's own connection
            return [_Actor(slot, self._resources(slot), setup, arguments) for slot in slots]

    def _resources(self, slot: Slot) -> dict[str, float]:
        """Return what Ray reserves for a slot; in a cluster of its own the slots alone say what
        runs at once.
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


class _Actor(concurrent.futures.ThreadPoolExecutor):
    """One actor, and a thread that hands it one job at a time and waits for the result."""

    def __init__(
        self,
        slot: Slot,
        resources: dict[str, float],
        setup: Callable[..., None],
        arguments: tuple[Any, ...],
    ):
        import ray

        super().__init__(1)
        self._worker: Any = (
            ray.remote(_Worker).options(max_restarts=0, **resources).remote(slot, setup, arguments)
        )
        _CLUSTER.actors.add(self)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        return super().submit(self._run, fn, args, kwargs)

    def _run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return ray.get(self._worker.run.remote(fn, args, kwargs))
        except RayActorError as error:
            raise concurrent.futures.BrokenExecutor(f"a Ray actor died: {error}") from error
        except RayTaskError as error:
            if isinstance(error.cause, Exception):
                raise error.cause from None  # as the job raised it
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        import ray

        if not wait and ray.is_initialized():
            ray.kill(self._worker)  # ends the job that nobody waits for
        super().shutdown(wait=True, cancel_futures=cancel_futures)
        if self in _CLUSTER.actors:
            _CLUSTER.actors.remove(self)
            with preserved():
                if ray.is_initialized():
                    ray.kill(self._worker)
                if _CLUSTER.is_own and not _CLUSTER.actors:
                    ray.shutdown()


class _Worker:
    """What runs in the actor."""

    def __init__(self, slot: Slot, setup: Callable[..., None], arguments: tuple[Any, ...]):
        import torch

        torch.set_num_threads(slot.threads)
        if slot.device.startswith("cuda"):
            slot = evolve(slot, device="cuda")  # an actor sees its own GPU alone
        setup(slot, *arguments)

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return fn(*args, **kwargs)


@hookimpl
def learnforge_executors() -> dict[str, type[Executor]]:
    return {"ray": Ray}
