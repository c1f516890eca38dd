"""Processes: one for each slot, and one that dies takes no other with it."""

from __future__ import annotations

import concurrent.futures
import os
import signal
from collections.abc import Iterator

import pytest
import torch

from learnforge import Plugins, Slot

_PLACE: list[object] = []


def _set_up(slot: Slot, tensor: torch.Tensor) -> None:
    _PLACE.append((slot.threads, tensor))


def _look() -> tuple[int, int, int, list[float]]:
    """Return process, torch's threads, how often this process was set up, and the tensor that it was
    handed.
    """
    _, tensor = _PLACE[0]  # type: ignore[misc]
    return os.getpid(), torch.get_num_threads(), len(_PLACE), tensor.tolist()


def _fail() -> None:
    raise ValueError("no such thing")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def executors(plugins: Plugins) -> Iterator[list[concurrent.futures.Executor]]:
    """Two processes of different slots."""
    slots = [Slot(threads=1), Slot(threads=2)]
    opened = plugins.load("executor", "processes")().open(slots, _set_up, (torch.tensor([1.0, 2.0]),))
    yield opened
    for executor in opened:
        executor.shutdown()


def test_every_slot_is_a_process_of_its_own(executors: list[concurrent.futures.Executor]) -> None:
    """Jobs of a slot run in one process, set up once with the arguments and with the slot's threads."""
    futures = [executor.submit(_look) for executor in (*executors, *executors)]
    found = [future.result(timeout=60) for future in futures]
    assert found[:2] == found[2:]
    assert len({process for process, *_ in found} | {os.getpid()}) == 3
    assert [rest for _, *rest in found[:2]] == [[1, 1, [1.0, 2.0]], [2, 1, [1.0, 2.0]]]


def test_error_of_a_job_leaves_its_process(executors: list[concurrent.futures.Executor]) -> None:
    """A job that raises hands its error over, and its process works on."""
    before = executors[0].submit(_look).result(timeout=60)
    with pytest.raises(ValueError, match="no such thing"):
        executors[0].submit(_fail).result(timeout=60)
    assert executors[0].submit(_look).result(timeout=60) == before


def test_killed_process_takes_no_other_with_it(executors: list[concurrent.futures.Executor]) -> None:
    """A killed process shows as `BrokenExecutor` on its own slot; the other slot's process works on."""
    before = executors[0].submit(_look).result(timeout=60)
    with pytest.raises(concurrent.futures.BrokenExecutor):
        executors[1].submit(_die).result(timeout=60)
    assert executors[0].submit(_look).result(timeout=60) == before
