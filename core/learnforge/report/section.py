"""A section of a report, as plugins and the core make it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import field, frozen


@frozen
class Section:
    """One part of a report.

    Args:
        title: Its heading.
        words: A paragraph of plain text, or "".
        columns: Headings of a table, or nothing.
        rows: The table's rows, as text.
        figures: Plotly figures; the Markdown report leaves them out.
    """

    title: str
    words: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figures: Sequence[Any] = field(default=())
