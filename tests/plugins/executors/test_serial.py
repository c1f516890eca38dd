"""Serial execution."""

from __future__ import annotations

import pytest

from learnforge import Plugins, Slot

_LOG: list[object] = []


def _set_up(slot: Slot, word: str) -> None:
    _LOG.append((slot.threads, word))


def _double(number: int) -> int:
    _LOG.append(number)
    return 2 * number


def _fail() -> None:
    raise ValueError("no such thing")


def test_jobs_run_at_once_in_order(plugins: Plugins) -> None:
    """There is one executor a slot, set up before any job; a job is done when it is handed in."""
    _LOG.clear()
    executors = plugins.load("executor", "serial")().open([Slot(1), Slot(2)], _set_up, ("hello",))
    assert len(executors) == 2
    assert _LOG == [(1, "hello"), (2, "hello")]
    futures = [executor.submit(_double, i) for i, executor in enumerate(executors)]
    assert all(future.done() for future in futures)
    assert [future.result() for future in futures] == [0, 2]
    assert _LOG[2:] == [0, 1]


def test_error_of_a_job_is_kept_for_its_result(plugins: Plugins) -> None:
    """An error in a job is raised by its future, not by handing it in, and the next job runs."""
    (executor,) = plugins.load("executor", "serial")().open([Slot()], _set_up, ("hello",))
    future = executor.submit(_fail)
    with pytest.raises(ValueError, match="no such thing"):
        future.result()
    assert executor.submit(_double, 4).result() == 8


def test_interrupt_ends_the_caller(plugins: Plugins) -> None:
    """Ctrl-C in a job reaches the one who handed it in."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    (executor,) = plugins.load("executor", "serial")().open([Slot()], _set_up, ("hello",))
    with pytest.raises(KeyboardInterrupt):
        executor.submit(interrupt)
