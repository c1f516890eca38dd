"""A run's lock admits one holder; its event log survives a cut anywhere."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import learnforge
from learnforge.errors import RunError, RunLockedError
from learnforge.runlog import EventLog, cut_torn_line, lock

HOLD = """
import sys
from pathlib import Path
from learnforge.runlog import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "run"`."""
    path = os.pathsep.join([str(Path(learnforge.__file__).parents[1]), *filter(None, sys.path)])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_lock_refuses_a_second_process(tmp_path, holder):
    """While another process holds the folder, the lock is refused with the folder's name and advice."""
    with (
        pytest.raises(RunLockedError, match=r"run: another process is running here; wait for it, or choose"),
        lock(tmp_path / "run"),
    ):
        pass


def test_lock_of_a_killed_process_is_free(tmp_path, holder):
    """A process that is killed lets go of the folder."""
    holder.kill()
    holder.wait()
    with lock(tmp_path / "run"):
        pass


def test_lock_is_let_go_at_the_end_also_after_an_error(tmp_path):
    """The lock can be taken again after a block that ended, well or badly, and is per folder."""
    with pytest.raises(KeyError), lock(tmp_path / "run"):
        raise KeyError
    with lock(tmp_path / "run"), lock(tmp_path / "other"):
        pass


def test_lock_in_an_unwritable_place_is_a_run_error(tmp_path, monkeypatch):
    """A folder that cannot be made is a RunError that says why."""

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr(os, "mkdir", refuse)
    with (
        pytest.raises(RunError, match=r"cannot write .*run: the file system is read-only"),
        lock(tmp_path / "run"),
    ):
        pass


def read_events(path):
    """Return the whole events of a log: what follows the last newline was cut off by a kill."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def write_log(path, count):
    """Write events 0 … count - 1."""
    with EventLog(path) as log:
        for i in range(count):
            log.write("epoch_finished", {"number": i, "words": "größer\n2", "metrics": {"loss": 0.5}})


def test_events_are_read_back(tmp_path):
    """Events come back in order with their name, data and time; a line break in a value breaks no line."""
    write_log(tmp_path / "events.jsonl", 2)
    events = read_events(tmp_path / "events.jsonl")
    assert [e["number"] for e in events] == [0, 1]
    assert events[0]["event"] == "epoch_finished"
    assert events[0]["words"] == "größer\n2"
    assert events[0]["time"] > 1.6e9


def test_opening_again_appends(tmp_path):
    """A second opening keeps what is there."""
    write_log(tmp_path / "events.jsonl", 2)
    write_log(tmp_path / "events.jsonl", 1)
    assert [e["number"] for e in read_events(tmp_path / "events.jsonl")] == [0, 1, 0]


def test_log_cut_at_every_byte_of_its_last_record_goes_on(tmp_path):
    """Cut anywhere in its last record, the log keeps all earlier events and takes new ones."""
    path = tmp_path / "events.jsonl"
    write_log(path, 3)
    data = path.read_bytes()
    start = data[:-1].rfind(b"\n") + 1
    assert len(data) - start > 50
    for end in range(start, len(data)):
        path.write_bytes(data[:end])
        assert [e["number"] for e in read_events(path)] == [0, 1], end
        with EventLog(path) as log:
            log.write("after", {"number": 9})
        assert [e["number"] for e in read_events(path)] == [0, 1, 9], end


def test_whole_log_is_not_cut(tmp_path):
    """A log that ends with a whole line stays as it is, and so does an empty or a missing one."""
    path = tmp_path / "events.jsonl"
    for content in (b"", b'{"a": 1}\n'):
        path.write_bytes(content)
        cut_torn_line(path)
        assert path.read_bytes() == content
    cut_torn_line(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_is_a_run_error(tmp_path):
    """An event that the disk refuses is a RunError, and closing the log afterwards hides it by no other."""

    def log_to_a_full_disk():
        with EventLog(tmp_path / "events.jsonl") as log:
            os.dup2(os.open("/dev/full", os.O_WRONLY), log._stream.fileno())
            log.write("epoch_finished", {})

    with pytest.raises(RunError, match=r"cannot write .*events.jsonl: the disk is full; free some space"):
        log_to_a_full_disk()


def test_log_in_a_missing_folder_is_a_run_error(tmp_path):
    """A log that cannot be opened is a RunError with its path."""
    with (
        pytest.raises(RunError, match=r"cannot write .*events.jsonl: its folder is gone"),
        EventLog(tmp_path / "none" / "events.jsonl"),
    ):
        pass
