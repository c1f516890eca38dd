"""A section of a report, as plugins and the core make it."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
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
