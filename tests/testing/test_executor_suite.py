"""Each fault of an executor turns the check red that is meant for it, and no other.

Reference: https://docs.python.org/3/library/concurrent.futures.html
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
import torch
from attrs import evolve, frozen
from tests.testing.breadth import BREADTHS, failed_checks

from learnforge import Executor, Plugins, Slot
from learnforge_testing.suites.executor import ExecutorSuite, Sight, fail

SetUp = Callable[..., None]


class _Thread(concurrent.futures.ThreadPoolExecutor):
    """One thread, whose jobs have the threads of a slot."""

    workers = 1

    def __init__(self, slot: Slot, setup: SetUp, arguments: tuple[Any, ...]):
        super().__init__(self.workers)
        self.slot = slot
        setup(slot, *arguments)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        return super().submit(self.run, fn, *args, **kwargs)

    def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(self.slot.threads)
        try:
            return fn(*args, **kwargs)
        finally:
            torch.set_num_threads(before)


@frozen
class Threads(Executor):
    """One thread for each slot."""

    pool: ClassVar[type[_Thread]] = _Thread

    def open(
        self, slots: Sequence[Slot], setup: SetUp, arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        return [self.pool(slot, setup, arguments) for slot in slots]


@frozen
class Generous(Threads):
    """Opens one executor too many."""

    def open(
        self, slots: Sequence[Slot], setup: SetUp, arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        return [*super().open(slots, setup, arguments), concurrent.futures.ThreadPoolExecutor(1)][:3]


class _Mixing(_Thread):
    """Gives every job the number of the first."""

    def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        found = super().run(fn, *args, **kwargs)
        return evolve(found, number=0) if isinstance(found, Sight) else found


@frozen
class Mixing(Threads):
    """Mixes results up."""

    pool = _Mixing


@frozen
class Eager(Threads):
    """Sets a slot up twice."""

    def open(
        self, slots: Sequence[Slot], setup: SetUp, arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        setup(slots[0], *arguments)
        return super().open(slots, setup, arguments)


class _Greedy(_Thread):
    """Lets every job have all threads."""

    def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)


@frozen
class Greedy(Threads):
    """Does not look at a slot's threads."""

    pool = _Greedy


@frozen
class Sticky(Threads):
    """Leaves the driver with other threads."""

    def open(
        self, slots: Sequence[Slot], setup: SetUp, arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        torch.set_num_threads(3)
        return super().open(slots, setup, arguments)


class _Crowded(_Thread):
    """Runs two jobs at a time."""

    workers = 2


@frozen
class Crowded(Threads):
    """Has two threads for each slot."""

    pool = _Crowded


class _Wrapping(_Thread):
    """Raises all errors as one type."""

    def run(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return super().run(fn, *args, **kwargs)
        except Exception as error:
            raise RuntimeError(str(error)) from error


@frozen
class Wrapping(Threads):
    """Loses the type of errors."""

    pool = _Wrapping


class _Impatient(_Thread):
    """Raises a job's error where it is handed in."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        return super().submit(fn, *args, **kwargs) if fn is not fail else fn(*args)


@frozen
class Impatient(Threads):
    """Raises errors too early."""

    pool = _Impatient


@frozen
class Bare(Threads):
    """Hands over the installed plugins alone."""

    def open(
        self, slots: Sequence[Slot], setup: SetUp, arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        bare = tuple(Plugins() if isinstance(value, Plugins) else value for value in arguments)
        return super().open(slots, setup, bare)


class _Thorough(_Thread):
    """Works the queue off before it ends."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait)


@frozen
class Thorough(Threads):
    """Drops no job."""

    pool = _Thorough


@frozen
class Boasting(Threads):
    """Claims to survive a killed job, but runs it in the driver's process."""

    isolates: ClassVar[bool] = True


class _Lingering(concurrent.futures.ProcessPoolExecutor):
    """Lets its process idle on."""

    opened: ClassVar[list[_Lingering]] = []

    def __init__(self, slot: Slot, setup: SetUp, arguments: tuple[Any, ...]):
        context = multiprocessing.get_context("spawn")
        super().__init__(1, context, _start, (slot, setup, arguments))
        self.futures: list[concurrent.futures.Future[Any]] = []
        self.opened.append(self)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        self.futures.append(super().submit(fn, *args, **kwargs))
        return self.futures[-1]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for future in self.futures:
            future.cancel()
        concurrent.futures.wait(self.futures)


def _start(slot: Slot, setup: SetUp, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(slot.threads)
    setup(slot, *arguments)


@frozen
class Lingering(Executor):
    """Leaves its processes there, and hands a slot that was lost out again."""

    isolates: ClassVar[bool] = True
    pools: ClassVar[dict[tuple[str, Slot], Any]] = {}

    def open(
        self, slots: Sequence[Slot], setup: SetUp, arguments: tuple[Any, ...]
    ) -> list[concurrent.futures.Executor]:
        for slot in slots:
            if (str(arguments[1:2]), slot) not in self.pools:
                self.pools[str(arguments[1:2]), slot] = _Lingering(slot, setup, arguments)
        return [self.pools[str(arguments[1:2]), slot] for slot in slots]


@pytest.fixture(autouse=True)
def processes() -> Iterator[None]:
    """End the processes that a faulty executor leaves."""
    yield
    for pool in _Lingering.opened:
        concurrent.futures.ProcessPoolExecutor.shutdown(pool)
    _Lingering.opened.clear()


FAULTS: list[tuple[type[Executor], list[str]]] = [
    (Threads, []),
    (Generous, ["each_slot_has_an_executor"]),
    (Mixing, ["results_are_those_of_their_jobs"]),
    (Eager, ["setup_runs_once_for_each_slot"]),
    (Greedy, ["jobs_have_the_threads_of_their_slot"]),
    (Sticky, ["jobs_have_the_threads_of_their_slot"]),
    (Crowded, ["slot_runs_one_job_at_a_time"]),
    (Wrapping, ["errors_come_back_with_their_futures"]),
    (Impatient, ["errors_come_back_with_their_futures"]),
    (Bare, ["plugin_files_are_known_where_jobs_run"]),
    (Thorough, ["shutdown_drops_the_queue"]),
    (Boasting, ["killed_worker_shows_as_broken_executor"]),
    # two faults in one, since every process takes seconds to start
    (Lingering, ["no_process_is_left_behind", "lost_slot_is_opened_again"]),
]


@BREADTHS
@pytest.mark.parametrize(("method", "broken"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_broken_methods_fail_the_check_meant_for_them(
    method: type[Executor], broken: list[str], breadth: str
) -> None:
    """Each fault shows in its check and in no other."""
    assert list(failed_checks(ExecutorSuite.of(method), broken, breadth)) == broken


def test_every_check_of_the_kind_has_a_fault() -> None:
    """No check of executors is left that nothing has turned red."""
    own = {name.removeprefix("test_") for name in vars(ExecutorSuite) if name.startswith("test_")}
    assert own == {name for _, names in FAULTS for name in names}


def test_jobs_are_killed_for_methods_that_claim_to_survive_it() -> None:
    """Without the claim nothing is killed, and the reason is told."""
    reason = "the method does not claim to survive a killed job"
    assert {check.name: check.skip for check in ExecutorSuite.of(Threads).checks() if check.skip} == {
        "killed_worker_shows_as_broken_executor": reason,
        "lost_slot_is_opened_again": reason,
    }


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (Wrapping, "errors_come_back_with_their_futures", r"JobError.* got RuntimeError\('job 7 fails'\)"),
        (Impatient, "errors_come_back_with_their_futures", r"`submit` raised JobError"),
        (Boasting, "killed_worker_shows_as_broken_executor", "the job runs in the driver's own process"),
        (
            Bare,
            "plugin_files_are_known_where_jobs_run",
            "they saw .*PluginError: there is no space 'conformance'",
        ),
    ],
)
def test_messages_say_what_came(method: type[Executor], check: str, words: str) -> None:
    """A failure tells the error that came."""
    with pytest.raises(AssertionError, match=words):
        getattr(ExecutorSuite.of(method)(), f"test_{check}")()


def test_session_that_cannot_open_is_told_by_every_check() -> None:
    """An error of `open` is the reason of each check, and the session is not tried twice."""

    @frozen
    class Closed(Threads):
        """Opens nothing."""

        tried: ClassVar[list[int]] = []

        def open(
            self, slots: Sequence[Slot], setup: SetUp, arguments: tuple[Any, ...]
        ) -> list[concurrent.futures.Executor]:
            self.tried.append(1)
            raise OSError("no room")

    suite = ExecutorSuite.of(Closed)()
    for check in ("each_slot_has_an_executor", "shutdown_drops_the_queue"):
        with pytest.raises(OSError, match="no room"):
            getattr(suite, f"test_{check}")()
    assert len(Closed.tried) == 1
    assert torch.get_num_threads() == 1
