"""What came of a comparison, shown on the terminal and written as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from learnforge.files import write_text
from learnforge.report import Section

Cells = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Headings and rows of a table."""


@frozen
class Report:
    """What is shown and written.

    Args:
        title: Title of the page.
        words: What the numbers on the page are, sentences.
        table: Headings and rows.
        label: Heading of the table on the terminal.
        note: What the numbers are, above the table on the terminal; or "".
        figures: Pictures on the page.
    """

    title: str
    words: str
    table: Cells
    label: str
    note: str = ""
    figures: Sequence[Any] = ()

    def show(self, subject: str) -> None:
        """Print the table; the column `subject` may be broken into lines."""
        import click

        from learnforge_plugins.reports.table import show_rows

        if self.note:
            click.echo(self.note)
        show_rows(self.label, *self.table, wrapped=subject)

    def write(self, folder: Path, heading: str, name: str, again: str) -> None:
        """Write `results.md` and `results.html`.

        Args:
            folder: Where.
            heading: Heading of the section.
            name: Name of the command.
            again: The command line that makes it again.
        """
        from learnforge_plugins.reports.write import page_html, page_markdown

        section = Section(heading, f"{self.words} Again: {again}", *self.table, self.figures)
        write_text(folder / "results.html", page_html(self.title, f"learnforge bench {name}", [section]))
        write_text(folder / "results.md", page_markdown(self.title, [section]))
