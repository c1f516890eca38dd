"""Progress on a terminal (bars) and without one (lines)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from learnforge.context import Progress, Tracker

SECONDS_BETWEEN_LINES = 5.0


def choose_progress() -> Progress:
    """Return bars if standard error is a terminal, else lines."""
    return Bars() if sys.stderr.isatty() else Lines()


class Bars:
    """One bar for each piece of work, on standard error."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Tracker]:
        """Show a bar until the end of the block."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with RichProgress(
            *columns, TextColumn("[dim]{task.fields[words]}"), console=Console(stderr=True)
        ) as bars:
            yield _Bar(bars, bars.add_task(label, total=total, completed=done, words=""))


class _Bar:
    def __init__(self, bars: RichProgress, task: TaskID):
        self._bars, self._task = bars, task

    def advance(self, text: str = "") -> None:
        self._bars.advance(self._task)
        if text:
            self._bars.update(self._task, words=text)


class Lines:
    """A line at the start, every few seconds and at the end of each piece of work, on standard error."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Tracker]:
        """Print lines until the end of the block."""
        line = _Line(label, total, done)
        yield line
        line.show()


class _Line:
    def __init__(self, label: str, total: int, done: int):
        self.label, self.total, self.done, self.words = label, total, done, ""
        self._start = self._shown = time.monotonic()

    def advance(self, text: str = "") -> None:
        self.done += 1
        self.words = text or self.words
        if time.monotonic() - self._shown >= SECONDS_BETWEEN_LINES:
            self.show()

    def show(self) -> None:
        self._shown = time.monotonic()
        seconds = self._shown - self._start
        words = f", {self.words}" if self.words else ""
        sys.stderr.write(f"{self.label} {self.done}/{self.total}, {seconds:.0f} s{words}\n")
        sys.stderr.flush()
