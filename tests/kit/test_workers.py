"""Worker processes: what is said when one of them is gone."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest
import torch

from learnforge_kit import VanishedError
from learnforge_kit.workers import Workers, environment_fault

SCRIPT = """
from concurrent.futures import BrokenExecutor
from learnforge_kit import VanishedError
from learnforge_kit.workers import Workers

def nothing():
    pass

with Workers(1, 1, nothing) as pool:
    try:
        pool.submit(nothing).result()
    except BrokenExecutor:
        print("SAID", pool.why_broken())
"""


def nothing() -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "its process was killed, most likely since memory ran out"),
        (signal.SIGSEGV, "its process crashed (SIGSEGV)"),
    ],
)
def test_a_killed_process_says_what_killed_it(number: signal.Signals, words: str) -> None:
    """The kernel's way to end what takes too much memory, and a crash in compiled code."""
    pool = Workers(1, 1, nothing)
    try:
        pid = pool.submit(os.getpid).result(timeout=60)
        with pytest.raises(BrokenExecutor):
            pool.submit(os.kill, pid, number).result(timeout=60)
        assert pool.has_started
        assert words in pool.why_broken(), [p.exitcode for p in pool._processes_started]
    finally:
        pool.shutdown(wait=False)


@pytest.mark.parametrize("is_file", [True, False])
def test_a_script_without_a_guard_is_told_what_to_write(tmp_path: Path, is_file: bool) -> None:
    """Workers import the script; from standard input there is none to import."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, *(["script.py"] if is_file else ["-"])]
    done = subprocess.run(command, input=SCRIPT, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    said = done.stdout.rpartition("SAID ")[2]
    words = "Workers import the script" if is_file else "workers cannot import a script from standard input"
    assert words in said
    assert said.endswith('import learnforge as lf\n\n    if __name__ == "__main__":\n        lf.run(…)\n')


def fail() -> None:
    """Stand for a preparation that fails."""
    raise ValueError("no data")


def test_a_preparation_that_fails_is_told() -> None:
    """With the error that it raised, and not as a script without a guard."""
    pool = Workers(1, 1, fail)
    try:
        with pytest.raises(BrokenExecutor):
            pool.submit(os.getpid).result(timeout=60)
        assert pool.why_broken() == "its process could not be prepared: ValueError: no data"
    finally:
        pool.shutdown(wait=False)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the machine lacks something (OSError"),
        (MemoryError(), "memory ran out (MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "memory ran out (OutOfMemoryError"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
        (
            RuntimeError("unable to write to file </torch_1>: No space left on device (28)"),
            "the machine lacks",
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "memory ran out"),
        (VanishedError("a.png cannot be read. It could be read before"), "a.png cannot be read"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), "a process that loads data"),
    ],
)
def test_faults_of_the_machine_are_known(error: BaseException, words: str) -> None:
    """They are no results of what ran."""
    assert environment_fault(error).startswith(words)


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(errno.ENOENT, "No such file"), RuntimeError("shape")]
)
def test_other_errors_are_no_fault_of_the_machine(error: BaseException) -> None:
    """They fail a trial."""
    assert environment_fault(error) == ""
