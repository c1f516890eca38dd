"""Jobs of a comparison, in worker processes."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from learnforge.errors import StageError
from learnforge.plugins.registry import Plugins
from learnforge_kit.workers import Workers

T = TypeVar("T")


_PLUGINS: list[Plugins] = []
"""In a worker: its plugins."""


def run_jobs(
    work: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    plugins: Plugins,
    workers: int,
    is_each_alone: bool = False,
) -> Iterator[T]:
    """Yield what `work(plugins, *job)` returns for each job, in the order in which they end.

    Args:
        work: A module-level function, or a method of an object that can be pickled.
        jobs: Its arguments, picklable.
        plugins: The plugins in use; workers load what is loaded here.
        workers: Processes with one thread each; each job runs in one of them.
        is_each_alone: Give every job a process of its own, whose memory is that of the job.

    Raises:
        StageError: A process was killed, or could not start.
    """
    with Workers(workers, 1, _start, (plugins,), 1 if is_each_alone else None) as pool:
        futures = [pool.submit(_run, work, job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except concurrent.futures.BrokenExecutor as error:
            raise StageError(f"a job could not run, and what is done is kept: {pool.why_broken()}") from error
        except BaseException:
            pool.end()  # what is in flight is done again next time
            raise


def _start(plugins: Plugins) -> None:
    _PLUGINS.append(plugins)


def _run(work: Callable[..., T], job: tuple[Any, ...]) -> T:
    return work(_PLUGINS[0], *job)
