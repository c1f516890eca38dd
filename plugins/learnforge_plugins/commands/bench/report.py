"""What came of a comparison, shown on the terminal and written as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from learnforge.files import write_text
from learnforge.report import Section


@frozen
class Report:
    """What is shown and written.

    Args:
        title: Title of the page.
        heading: Heading of its section.
        words: What the numbers on the page are, sentences.
        label: Heading of the table on the terminal.
        note: What the numbers are, above the table on the terminal; or "".
        wrapped: The column that the terminal may break into lines.
        columns: The table's headings.
        rows: Its cells.
        figures: Pictures on the page.
    """

    title: str
    heading: str
    words: str
    label: str
    note: str
    wrapped: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Sequence[Any] = ()

    def show(self) -> None:
        """Print the table."""
        import click

        from learnforge_plugins.reports.table import show_rows

        if self.note:
            click.echo(self.note)
        show_rows(self.label, self.columns, self.rows, self.wrapped)

    def write(self, folder: Path, name: str, command: str) -> None:
        """Write `results.md` and `results.html`.

        Args:
            folder: Where.
            name: Name of the comparison's command.
            command: The command line that made it.
        """
        from learnforge_plugins.reports.write import page_html, page_markdown

        words = f"{self.words} Again: {command}"
        section = Section(self.heading, words, self.columns, self.rows, self.figures)
        write_text(folder / "results.html", page_html(self.title, f"learnforge bench {name}", [section]))
        write_text(folder / "results.md", page_markdown(self.title, [section]))
