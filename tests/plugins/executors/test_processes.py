"""Processes: one for each slot, and one that dies takes no other with it."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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


DRIVER = """
import sys, time
from learnforge import Plugins, Slot
from tests.plugins.executors.test_processes import _set_up, _look
import torch

if __name__ == "__main__":
    (executor,) = Plugins().load("executor", "processes")().open([Slot()], _set_up, (torch.zeros(1),))
    print(executor.submit(_look).result()[0], flush=True)
    time.sleep(60)
"""


def test_a_worker_ends_with_a_killed_driver(tmp_path: Path) -> None:
    """SIGKILL of the driver, which cannot clean up, leaves no worker behind."""
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    root = Path(__file__).parents[3]
    driver = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert driver.stdout is not None
    worker = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    driver.stdout.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{worker}").exists()
