"""What a report is made of: sections, and what they show of a run. Needs no torch."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen


def _as_texts(cells: Iterable[Any]) -> tuple[str, ...]:
    return tuple(str(cell) for cell in cells)


def _as_rows(rows: Iterable[Iterable[Any]]) -> tuple[tuple[str, ...], ...]:
    return tuple(_as_texts(row) for row in rows)


@frozen
class Picture:
    """A small image in a report.

    Args:
        png: PNG in base64.
        words: What stands below it, and is read out in its place.
    """

    png: str = field()
    words: str = field(converter=str)

    @png.validator
    def _check_png(self, attribute: Any, value: str) -> None:
        try:
            base64.b64decode(value.encode("ascii"), validate=True)
        except (AttributeError, ValueError) as error:
            raise ValueError(f"'png' must be base64 as text, got {value!r:.40}") from error


@frozen
class Section:
    """One part of a report.

    Args:
        title: Its heading.
        words: Paragraphs of plain text, parted by empty lines, or "".
        columns: Headings of a table, or nothing.
        rows: The table's rows, as text.
        figures: Plotly figures; the Markdown report leaves them out.
        pictures: Images, after the figures; the Markdown report leaves them out.
        caption: What the pictures are, or "".
    """

    title: str = field(converter=str)
    words: str = field(default="", converter=str)
    columns: Sequence[str] = field(default=(), converter=_as_texts)
    rows: Sequence[Sequence[str]] = field(default=(), converter=_as_rows)
    figures: Sequence[Any] = field(default=())
    pictures: Sequence[Picture] = field(default=())
    caption: str = field(default="", converter=str)


@frozen
class StageSummary:
    """What a report knows of a stage.

    Args:
        name: Name in the recipe.
        kind: Kind of stage.
        method: Its method, `{"use": name, **options}`; empty if it has none.
        state: `waiting`, `running`, `finished`, `kept` or `failed`, also where it was cut off; `damaged`
            where its metrics cannot be read.
        seconds: Time it took.
        task: Facts about its task: name, classes, shape, sizes of the splits.
        metrics: What it measured; empty if it is not finished.
        progress: What a search has found so far, `history`, `objectives` and counts; empty if it is
            finished, or is none.
        parts: What it was made of beside its method: settings, options of its tasks and models; whose code
            ran, and its fingerprint.
        peak_mebibytes: Memory at its peak; None if it is not known.
    """

    name: str
    kind: str
    method: Mapping[str, Any]
    state: str
    seconds: float
    task: Mapping[str, Any]
    metrics: Mapping[str, Any]
    progress: Mapping[str, Any] = field(factory=dict)
    parts: Mapping[str, Any] = field(factory=dict)
    peak_mebibytes: float | None = None

    @property
    def is_finished(self) -> bool:
        """Tell whether there are metrics to show."""
        return bool(self.metrics)


@frozen
class RunSummary:
    """What a report knows of a run.

    Args:
        folder: Its folder.
        name: Its name.
        state: `running`, `finished` or `failed`.
        seed: Its seed.
        device: Where it trained.
        threads: CPU threads it used.
        versions: Versions of Python and libraries.
        stages: Its stages, in order.
        plugins: What was asked of plugins (`wishes`), its `files`, and all that were `loaded`.
        processor: The processor of the machine that ran it last; "" if it is not known.
        day: When its record was last written, `2026-11-28`, UTC; "" if it is not known.
    """

    folder: Path
    name: str
    state: str
    seed: int
    device: str
    threads: int
    versions: Mapping[str, str]
    stages: tuple[StageSummary, ...]
    plugins: Mapping[str, Any] = field(factory=dict)
    processor: str = ""
    day: str = ""
