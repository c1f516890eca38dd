"""A run's lock and its event log: one line of JSON for each event, appended, a torn last line cut off
on opening.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from learnforge.errors import RunLockedError
from learnforge.files import make_folder, refusal


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold a run's folder for this process alone; the system lets go of it even if the process is killed.

    Raises:
        RunLockedError: Another process holds it.
        RunError: The folder cannot be created or written.
    """
    held = FileLock(folder / ".lock")
    try:
        make_folder(folder)
        held.acquire(blocking=False)
    except Timeout as error:
        raise RunLockedError(
            f"{folder}: another process is running here; wait for it, or choose another folder with `--run`"
        ) from error
    except OSError as error:
        raise refusal(folder, error) from error
    try:
        yield
    finally:
        held.release()


class EventLog:
    """An append-only log.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> EventLog:
        try:
            cut_torn_line(self.path)
            self._stream = self.path.open("a", encoding="utf-8")
        except OSError as error:
            raise refusal(self.path, error) from error
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._stream.close()
        except OSError as error:  # an event that the disk refused is still buffered, and refused again
            if exception[0] is None:
                raise refusal(self.path, error) from error

    def write(self, event: str, data: Mapping[str, Any]) -> None:
        """Append one event with the time of day.

        Raises:
            RunError: The disk refuses.
        """
        try:
            self._stream.write(json.dumps({"time": round(time.time(), 3), "event": event, **data}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise refusal(self.path, error) from error


def cut_torn_line(path: Path) -> None:
    """Cut off what a kill left unfinished at the end of a log."""
    if not path.exists():
        return
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as stream:
            stream.truncate(whole)
