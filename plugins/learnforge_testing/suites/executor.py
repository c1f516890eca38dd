"""What every executor must keep to: each job's own result, one set-up for each slot, and nothing left behind.

Opening processes takes seconds, so one session of jobs is watched, and the checks ask what it showed.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import evolve, frozen

from learnforge.kinds.executor import Executor, Slot
from learnforge.plugins.choice import PluginChoice
from learnforge.plugins.registry import Plugins
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import needs, require

SLOTS = (Slot(threads=1), Slot(threads=2))


THREADS = 4
"""The driver's threads during a session, other than those of the slots."""

SECONDS = (0.2, 0.0, 0.0, 0.1, 0.1, 0.0)
"""Lengths of the jobs of a session, handed to its slots in turn; the later ones are done before the first."""

PATIENCE = 120.0
"""Seconds that a job of a fraction of a second may take, a slow start of its process included."""

_FILE = "learnforge_conformance_worker.py"


_PLUGIN = """
from attrs import frozen

from learnforge import hookimpl


@frozen
class Noted:
    word: str


@hookimpl
def learnforge_spaces():
    return {"conformance": Noted}
"""

_NUMBERS = itertools.count()


_SET_UP: dict[str, list[tuple[Slot, Plugins, Any]]] = {}
"""In the process where jobs run: what each call of `set_up` was given, by session."""


class JobError(Exception):
    """What a job of the suite raises."""


@frozen
class Sight:
    """What a job saw where it ran.

    Args:
        number: The job's own number.
        process: Its process.
        start: When it began, in seconds of the machine's clock.
        end: When it was done.
        threads: CPU threads of torch.
        slots: The slots that its process was set up for, in order.
        words: What the method from the plugin's file says.
    """

    number: int
    process: int
    start: float
    end: float
    threads: int
    slots: tuple[Slot, ...]
    words: str


def set_up(slot: Slot, plugins: Plugins, session: str, method: Any) -> None:
    """Note what a slot is set up with; the plugins come first, so that the method's file is loaded."""
    _SET_UP.setdefault(session, []).append((slot, plugins, method))


def look(session: str, number: int, seconds: float = 0.0) -> Sight:
    """Take a while, and say what is to be seen here."""
    start = time.monotonic()
    time.sleep(seconds)
    places = _SET_UP.get(session, [])
    slots, words = tuple(slot for slot, _, _ in places), _words(places[-1]) if places else "no set-up"
    return Sight(number, os.getpid(), start, time.monotonic(), torch.get_num_threads(), slots, words)


def fail(number: int) -> None:
    """Raise an error of the suite's."""
    raise JobError(f"job {number} fails")


def die(driver: int) -> None:
    """End this process at once, as a lack of memory does, unless it is the driver's."""
    if os.getpid() == driver:
        raise RuntimeError("the job runs in the driver's own process")
    os._exit(9)


def compute(seed: int) -> list[float]:
    """Compute a few numbers that depend on the seed alone."""
    numbers = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
    found: list[float] = (numbers @ numbers.T).logsumexp(1).tolist()
    return found


def start_nothing(slot: Slot) -> None:
    """Set a slot up that needs nothing."""


@frozen(eq=False)
class _Session:
    """What a session of jobs showed.

    Args:
        opened: The executors, for `SLOTS`.
        sights: What the jobs saw, in the order in which they were handed in; or their errors.
        error: The error of a job that fails.
        recovered: What the job after it saw.
        threads: The driver's threads afterwards.
        death: What became of a job that killed its process; None where none was.
        neighbour: What a job of the other slot saw after that.
        replacement: What a job saw on the slot that was opened again.
        last: Futures at a shutdown while the first of them runs.
        was_done: Whether the last of them was done before the shutdown.
        left: Processes that are still there after the shutdown.
    """

    opened: list[Any]
    sights: list[Any]
    error: Any
    recovered: Any
    threads: int
    death: Any
    neighbour: Any
    replacement: Any
    last: list[concurrent.futures.Future[Any]]
    was_done: bool
    left: list[int]


class ExecutorSuite(MethodSuite):
    """Checks of executors. A job that kills its process is run only for methods that declare `isolates`."""

    kind: ClassVar[str] = "executor"
    base: ClassVar[type] = Executor

    def result(self) -> Any:
        executor = self.make().open(SLOTS[:1], start_nothing, ())[0]
        try:
            futures = [executor.submit(compute, seed) for seed in range(3)]
            return [future.result(timeout=PATIENCE) for future in futures]
        finally:
            executor.shutdown()

    def test_each_slot_has_an_executor(self) -> None:
        """`open` returns as many `concurrent.futures` executors as there are slots, none of them twice."""
        opened = self._session().opened
        require(len(opened) == len(SLOTS), f"there must be {len(SLOTS)} executors, got {len(opened)}")
        require(len({id(executor) for executor in opened}) == len(opened), "no slot may share its executor")
        wrong = [e for e in opened if not isinstance(e, concurrent.futures.Executor)]
        require(not wrong, f"executors must be of `concurrent.futures.Executor`, got {wrong}")

    def test_results_are_those_of_their_jobs(self) -> None:
        """Whichever job ends first, every future gives the result of its own."""
        sights = self._session().sights
        got = [sight.number if isinstance(sight, Sight) else sight for sight in sights]
        require(got == list(range(len(SECONDS))), f"futures must give the results 0, 1, 2, …, got {got}")

    def test_setup_runs_once_for_each_slot(self) -> None:
        """`setup` has run where the jobs run, once for each slot, with the slot and the arguments."""
        sights = self._sights()
        places = {sight.process: sight.slots for sight in sights}  # the last job of a process saw most
        found = sorted(itertools.chain.from_iterable(places.values()), key=lambda slot: slot.threads)
        require(found == list(SLOTS), f"`setup` must run once for each of {list(SLOTS)}, it ran for {found}")
        for number, sight in enumerate(sights):
            slot = SLOTS[number % len(SLOTS)]
            require(slot in sight.slots, f"a job of {slot} must find it set up, it found {list(sight.slots)}")

    def test_jobs_have_the_threads_of_their_slot(self) -> None:
        """In a job torch has as many threads as its slot, and in the driver as many as before."""
        got = [sight.threads for sight in self._sights()]
        want = [SLOTS[number % len(SLOTS)].threads for number in range(len(got))]
        require(got == want, f"jobs must have {want} threads, as their slots, got {got}")
        after = self._session().threads
        require(after == THREADS, f"the driver must keep its {THREADS} threads, it has {after}")

    def test_slot_runs_one_job_at_a_time(self) -> None:
        """Of the jobs of a slot, none begins before the one before it is done."""
        sights = self._sights()
        for slot in range(len(SLOTS)):
            times = sorted((s.start, s.end, s.number) for s in sights[slot :: len(SLOTS)])
            for (_, end, first), (start, _, second) in itertools.pairwise(times):
                require(end <= start, f"jobs {first} and {second} of one slot must not run at the same time")

    def test_errors_come_back_with_their_futures(self) -> None:
        """What a job raises is its future's exception, of its type and with its words; the next job runs."""
        session = self._session()
        error, recovered = session.error, session.recovered
        require(
            type(error) is JobError and str(error) == "job 7 fails",
            f"the future must raise JobError('job 7 fails'), got {error!r}",
        )
        require(isinstance(recovered, Sight), f"the job after an error must run, got {recovered!r}")

    def test_plugin_files_are_known_where_jobs_run(self) -> None:
        """`Plugins` in the arguments knows the files of this run, and a method out of one comes through."""
        words = {sight.words for sight in self._sights()}
        require(
            words == {"Noted says hello"}, f"jobs must see the method of the file, they saw {sorted(words)}"
        )

    def test_shutdown_drops_the_queue(self) -> None:
        """`shutdown(cancel_futures=True)` lets the running job end and drops those that wait for it."""
        session = self._session()
        done = [future.done() for future in session.last]
        require(all(done), f"after `shutdown` every future must be done, {done.count(False)} are not")
        first = _outcome(session.last[0])
        require(isinstance(first, Sight), f"the running job must end with its result, got {first!r}")
        require(
            session.was_done or session.last[-1].cancelled(),
            f"the last of {len(done)} jobs must be cancelled, but it ran",
        )

    @needs(lambda suite: os.name == "posix", "processes are looked up in the way of POSIX")
    def test_no_process_is_left_behind(self) -> None:
        """After `shutdown` no process is there any more in which a job ran, but the driver's."""
        left = self._session().left
        require(not left, f"`shutdown` must end every process, {len(left)} are left")

    @needs(lambda suite: suite.method.isolates, "the method does not claim to survive a killed job")
    def test_killed_worker_shows_as_broken_executor(self) -> None:
        """A job that kills its process raises `BrokenExecutor`, and the other slot works on where it was."""
        session = self._session()
        require(
            isinstance(session.death, concurrent.futures.BrokenExecutor),
            f"the future must raise BrokenExecutor, got {session.death!r}",
        )
        before, after = self._sights()[0], session.neighbour
        require(
            isinstance(after, Sight) and after.process == before.process,
            f"the other slot must work on in its process {before.process}, got {after!r}",
        )

    @needs(lambda suite: suite.method.isolates, "the method does not claim to survive a killed job")
    def test_lost_slot_is_opened_again(self) -> None:
        """After its worker was killed, a slot opened again is set up and runs the job once more."""
        found = self._session().replacement
        require(
            isinstance(found, Sight) and found.number == 9 and SLOTS[1] in found.slots,
            f"a job on the slot that was opened again must run, got {found!r}",
        )

    def _sights(self) -> list[Sight]:
        """Return what the jobs saw; that all of them did is another check."""
        return [sight for sight in self._session().sights if isinstance(sight, Sight)]

    def _session(self) -> _Session:
        """Return the one session of all checks, or raise what ended it."""
        cls = type(self)
        if cls not in _WATCHED:
            _WATCHED.clear()
            try:
                _WATCHED[cls] = _watch(self.make())
            except Exception as error:
                _WATCHED[cls] = error
        found = _WATCHED[cls]
        if isinstance(found, Exception):
            raise found
        return found


_WATCHED: dict[type, _Session | Exception] = {}


def _watch(method: Executor) -> _Session:
    """Open both slots, run jobs, kill one where that is allowed, shut down, and note what is to be seen."""
    name = f"{type(method).__qualname__} {next(_NUMBERS)}"
    before, executors = torch.get_num_threads(), list[concurrent.futures.Executor]()
    with _plugins() as plugins:
        arguments = (plugins, name, plugins.load("space", "conformance")("hello"))
        try:
            torch.set_num_threads(THREADS)
            opened = method.open(SLOTS, set_up, arguments)
            executors += opened
            session = _run_jobs(executors, name)
            if method.isolates:
                session = _kill(session, executors, lambda: method.open(SLOTS[1:], set_up, arguments), name)
            session = _shut_down(session, executors, name)
            return evolve(session, opened=opened, threads=torch.get_num_threads())
        finally:
            torch.set_num_threads(before)
            for executor in executors:
                executor.shutdown(wait=False, cancel_futures=True)
            _SET_UP.pop(name, None)


def _run_jobs(executors: list[concurrent.futures.Executor], name: str) -> _Session:
    futures = [
        executors[number % len(executors[:2])].submit(look, name, number, seconds)
        for number, seconds in enumerate(SECONDS)
    ]
    sights = [_outcome(future) for future in futures]
    error, recovered = _try(executors[0], fail, 7), _try(executors[0], look, name, 8)
    return _Session([], sights, error, recovered, 0, None, None, None, [], False, [])


def _kill(
    session: _Session,
    executors: list[concurrent.futures.Executor],
    reopen: Callable[[], list[concurrent.futures.Executor]],
    name: str,
) -> _Session:
    """Kill the second slot's worker, look at the first, and open the second again in place of the old one."""
    death = _try(executors[1], die, os.getpid())
    neighbour = _try(executors[0], look, name, 10)
    executors[1].shutdown(wait=False, cancel_futures=True)
    executors[1] = reopen()[0]
    replacement = _try(executors[1], look, name, 9)
    return evolve(session, death=death, neighbour=neighbour, replacement=replacement)


def _shut_down(session: _Session, executors: list[concurrent.futures.Executor], name: str) -> _Session:
    """Shut down while the first of six jobs runs, and see what is left."""
    last = [executors[0].submit(look, name, 11, 0.3)]
    last += [executors[0].submit(look, name, number) for number in range(12, 17)]
    _wait(lambda: last[0].running() or last[0].done(), PATIENCE)
    was_done = last[-1].done()
    for executor in executors:
        executor.shutdown(wait=True, cancel_futures=True)
    seen = [*session.sights, session.recovered, session.neighbour, session.replacement]
    processes = {sight.process for sight in seen if isinstance(sight, Sight)} - {os.getpid()}
    _wait(lambda: not any(map(_is_there, processes)), 5.0)
    left = sorted(filter(_is_there, processes))
    return evolve(session, last=last, was_done=was_done, left=left)


def _try(executor: concurrent.futures.Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return a job's result or error; handing it in may raise only that the executor is broken."""
    try:
        future = executor.submit(function, *arguments)
    except concurrent.futures.BrokenExecutor as error:
        return error
    except Exception as error:
        return AssertionError(f"`submit` raised {error!r} itself")
    return _outcome(future)


def _outcome(future: concurrent.futures.Future[Any]) -> Any:
    try:
        return future.result(timeout=PATIENCE)
    except (Exception, concurrent.futures.CancelledError) as error:
        return error


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Wait until a condition holds, at most so long."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError:
        return False
    return True


def _words(place: tuple[Slot, Plugins, Any]) -> str:
    _, plugins, method = place
    try:
        cls = plugins.load("space", "conformance")
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"{cls.__name__} says {method.word}"


@contextmanager
def _plugins() -> Iterator[Plugins]:
    """Write a plugin's file and load it, for as long as the session lasts."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / _FILE
        file.write_text(_PLUGIN, encoding="utf-8")
        try:
            yield Plugins(PluginChoice(files=(file,)))
        finally:
            sys.modules.pop(f"learnforge_plugin_{file.stem}", None)
