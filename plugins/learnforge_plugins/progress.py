"""Progress on a terminal (bars), below a notebook's cell (bars too), and elsewhere (lines)."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from html import escape
from typing import TYPE_CHECKING, Any

from learnforge import hookimpl

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from learnforge import Progress, Tracker

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_DRAWINGS = 0.25


@hookimpl
def learnforge_progress(is_command: bool) -> Progress | None:
    """Offer bars in a notebook and to a command whose standard error is a terminal, else lines; scripts
    show nothing.
    """
    if is_notebook():
        return Notebook()
    if not is_command:
        return None
    return Bars() if sys.stderr.isatty() else Lines()


def is_notebook() -> bool:
    """Tell whether a cell of a Jupyter notebook is running."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


class Bars:
    """One bar for each piece of work, on standard error."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Tracker]:
        """Show a bar until the end of the block."""
        from rich import progress
        from rich.console import Console

        text, bar, _, remaining = progress.Progress.get_default_columns()
        counts = progress.MofNCompleteColumn(), progress.TimeElapsedColumn(), remaining
        words = progress.TextColumn("[dim]{task.fields[words]}")
        with progress.Progress(text, bar, *counts, words, console=Console(stderr=True)) as bars:
            yield _Bar(bars, bars.add_task(label, total=total, completed=done, words=""))


class _Bar:
    def __init__(self, bars: RichProgress, task: TaskID):
        self._bars, self._task = bars, task

    def advance(self, text: str = "") -> None:
        self._bars.advance(self._task)
        if text:
            self._bars.update(self._task, words=text)


class _Counter:
    """Counts steps, and shows where it stands at most every few seconds.

    Args:
        label: What is counted.
        total: How many steps there are.
        done: How many are done already.
        pause: Seconds between what is shown.
        write: Shows a counter with a line of words.
    """

    def __init__(
        self, label: str, total: int, done: int, pause: float, write: Callable[[_Counter, str], None]
    ):
        self.label, self.total, self.done, self.words = label, total, done, ""
        self._pause, self._write = pause, write
        self._start = self._shown = time.monotonic()

    def advance(self, text: str = "") -> None:
        self.done += 1
        self.words = text or self.words
        if time.monotonic() - self._shown >= self._pause:
            self.show()

    def show(self) -> None:
        self._shown = time.monotonic()
        words = f", {self.words}" if self.words else ""
        line = f"{self.label} {self.done}/{self.total}, {self._shown - self._start:.0f} s{words}"
        self._write(self, line)


class Lines:
    """A line every few seconds and at the end of each piece of work, on standard error."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Tracker]:
        """Print lines until the end of the block."""
        line = _Counter(label, total, done, SECONDS_BETWEEN_LINES, _print)
        yield line
        line.show()


def _print(counter: _Counter, text: str) -> None:
    with suppress(OSError):  # a run outlives the terminal that it was started from
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class Notebook:
    """A bar for each piece of work, below the cell; it stays with the cell's output."""

    @contextmanager
    def track(self, label: str, total: int, done: int = 0) -> Iterator[Tracker]:
        """Show a bar, which has its last state after the block."""
        bar = _Counter(label, total, done, SECONDS_BETWEEN_DRAWINGS, _Cell())
        bar.show()
        yield bar
        bar.show()


class _Cell:
    _handle: Any = None

    def __call__(self, counter: _Counter, text: str) -> None:
        from IPython.display import HTML, display

        bar = f'<progress value="{counter.done}" max="{max(1, counter.total)}"></progress>'
        page = HTML(f"<div>{bar} {escape(text)}</div>")  # type: ignore[no-untyped-call]
        if self._handle is None:
            self._handle = display(page, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(page)
