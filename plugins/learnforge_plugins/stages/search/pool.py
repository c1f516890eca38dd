"""Where trials run: one executor for each slot, a lost worker replaced and its trial run once more, alone.

What ends a worker is a fault of the machine, and no result of a design: where it happens again, the search
stops and says so, and the next run tries the trial again.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Sequence

from learnforge.errors import LearnforgeError, StageError
from learnforge.kinds.executor import Slot
from learnforge_kit.workers import Workers, environment_fault
from learnforge_plugins.stages.search.objective import TrialJob, TrialResult, run_trial


class Pool:
    """Hands jobs to one executor for each slot; a lost worker is replaced and its job run once more, when no
    other runs beside it.
    """

    def __init__(
        self, slots: Sequence[Slot], reopen: Callable[[Sequence[Slot]], list[concurrent.futures.Executor]]
    ):
        self._slots, self._reopen = list(slots), reopen
        self._executors: list[concurrent.futures.Executor | None] = [None] * len(self._slots)
        self._queue: list[TrialJob] = []
        self._known: set[tuple[int, int | None]] = set()
        self._retried: set[tuple[int, int | None]] = set()
        self._running: dict[concurrent.futures.Future[TrialResult], tuple[int, TrialJob]] = {}

    def submit(self, job: TrialJob) -> None:
        """Queue a job, unless it is queued or running already."""
        if _key(job) not in self._known:
            self._known.add(_key(job))
            self._queue.append(job)

    def collect(self, wait_for_all: bool) -> list[TrialResult]:
        """Run queued jobs until all, or at least one, of them are done; return the results.

        Raises:
            StageError: A job cannot be run on this machine.
        """
        results: list[TrialResult] = []
        while (self._queue or self._running) and (wait_for_all or not results):
            self._start()
            done = {future for future in self._running if future.done()}  # as a serial executor's is at once
            if not done:
                done, _ = concurrent.futures.wait(
                    self._running, return_when=concurrent.futures.FIRST_COMPLETED
                )
            results += [r for future in done if (r := self._result(future)) is not None]
        return results

    def _start(self) -> None:
        busy = {slot for slot, _ in self._running.values()}
        for slot in range(len(self._slots)):
            is_alone = any(_key(job) in self._retried for job in (*self._queue[:1], *self._jobs()))
            if slot not in busy and self._queue and not (is_alone and self._running):
                job = self._queue.pop(0)
                self._running[self._submit(slot, job)] = (slot, job)

    def _submit(self, slot: int, job: TrialJob) -> concurrent.futures.Future[TrialResult]:
        """Hand a job to a slot's worker; one that died while it had nothing to do is replaced."""
        executor = self._executors[slot] or self._open(slot)
        try:
            return executor.submit(run_trial, job)
        except concurrent.futures.BrokenExecutor:
            executor.shutdown(wait=False, cancel_futures=True)
            return self._open(slot).submit(run_trial, job)

    def _open(self, slot: int) -> concurrent.futures.Executor:
        executor = self._reopen([self._slots[slot]])[0]
        self._executors[slot] = executor
        return executor

    def _result(self, future: concurrent.futures.Future[TrialResult]) -> TrialResult | None:
        slot, job = self._running.pop(future)
        try:
            result = future.result()
        except concurrent.futures.BrokenExecutor as error:
            broken, self._executors[slot] = self._executors[slot], None
            cause = str(error) or "its worker died"
            if isinstance(broken, Workers):
                cause = broken.why_broken()
            if broken is not None:
                broken.shutdown(wait=False, cancel_futures=True)
            if isinstance(broken, Workers) and not broken.has_started:
                raise _stopped(job, "", cause) from error
            if _key(job) in self._retried:
                raise _stopped(job, " twice, the second time alone", cause) from error
            self._retried.add(_key(job))
            self._queue.insert(0, job)
            return None
        except LearnforgeError:  # a hook's fault, told with its plugin
            raise
        except Exception as error:
            raise _stopped(job, "", environment_fault(error) or f"{type(error).__name__}: {error}") from error
        self._retried.discard(_key(job))
        return result

    def _jobs(self) -> list[TrialJob]:
        return [job for _, job in self._running.values()]

    def close(self, wait: bool = True) -> None:
        """Close every executor: let running jobs end, or abandon them."""
        for executor in self._executors:
            if executor is not None:
                executor.shutdown(wait=wait, cancel_futures=True)


def _stopped(job: TrialJob, tries: str, cause: str) -> StageError:
    return StageError(
        f"trial {job.number} could not run{tries}; nothing is stored of it, and the next run tries it again: "
        f"{cause}"
    )


def _key(job: TrialJob) -> tuple[int, int | None]:
    return job.number, job.epochs
