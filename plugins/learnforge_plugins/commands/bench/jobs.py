"""What comparisons of methods share: jobs in worker processes, and a file of results to go on from."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import signal
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from learnforge.files import fingerprint
from learnforge.kinds.task import Task, TaskSource
from learnforge.plugins.registry import Plugins
from learnforge_kit.workers import end_with_parent

T = TypeVar("T")


class Ledger:
    """Results of earlier calls under the same conditions, one line of JSON each.

    Args:
        file: The file; None keeps nothing.
        conditions: What the results depend on, JSON-able; lines made under others are passed over.
    """

    def __init__(self, file: Path | None, conditions: Mapping[str, Any]):
        self.file, self.conditions = file, fingerprint(dict(conditions))

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what is there; a torn last line is left out."""
        if self.file is None or not self.file.exists():
            return
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                data = json.loads(line)
            except ValueError:
                continue
            if data.pop("conditions", None) == self.conditions:
                yield data

    def append(self, results: Sequence[Mapping[str, Any]]) -> None:
        """Keep results."""
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as stream:
            for result in results:
                stream.write(json.dumps({"conditions": self.conditions, **result}) + "\n")


_TASKS: dict[str, Task] = {}


def load_task(source: TaskSource) -> Task:
    """Read a task, once in a process."""
    key = repr(source)
    if key not in _TASKS:
        _TASKS[key] = source.load()
    return _TASKS[key]


def run_jobs(
    work: Callable[..., T],
    jobs: Sequence[tuple[Any, ...]],
    plugins: Plugins,
    workers: int,
    is_each_alone: bool = False,
) -> Iterator[T]:
    """Yield what `work(plugins, *job)` returns for each job, in the order in which they end.

    Args:
        work: A module-level function.
        jobs: Its arguments, picklable.
        plugins: The plugins in use; workers load what is loaded here.
        workers: Processes with one thread each; each job runs in one of them.
        is_each_alone: Give every job a process of its own, whose memory is that of the job.
    """
    spawn = multiprocessing.get_context("spawn")
    jobs_of_a_process = 1 if is_each_alone else None
    with concurrent.futures.ProcessPoolExecutor(
        workers, spawn, _start, (plugins,), max_tasks_per_child=jobs_of_a_process
    ) as pool:
        futures = [pool.submit(_run, work, job) for job in jobs]
        try:
            for future in concurrent.futures.as_completed(futures):
                yield future.result()
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()  # what is in flight is done again next time
            raise


_PLUGINS: list[Plugins] = []
"""In a worker: its plugins."""


def _start(plugins: Plugins) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    end_with_parent()
    torch.set_num_threads(1)
    _PLUGINS.append(plugins)


def _run(work: Callable[..., T], job: tuple[Any, ...]) -> T:
    return work(_PLUGINS[0], *job)


def mean(values: Sequence[float]) -> float:
    """Return the mean, NaN of nothing."""
    return statistics.fmean(values) if values else float("nan")


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample, 0 of fewer than two."""
    return statistics.stdev(values) if len(values) > 1 else 0.0
