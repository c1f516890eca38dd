"""Tables on the terminal, among them what is shown at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from learnforge.report import RunSummary
from learnforge_plugins.reports.sections import stage_columns, stage_row

NUMBERS = ("parameters", "macs", "latency", "seconds", "evaluations", "duplicates")
"""Columns that are lined up at the right."""


def show_run(run: RunSummary) -> None:
    """Print the table of stages and where the report is."""
    title = f"{run.name}: {run.state}"
    show_rows(title, stage_columns(run.stages), [stage_row(stage) for stage in run.stages], wrapped="against")
    kept = [stage.name for stage in run.stages if stage.state == "kept"]
    if kept:
        Console().print(f"kept from an earlier run: {', '.join(kept)}", soft_wrap=True)
    Console().print(f"report: {run.folder / 'report.html'}", soft_wrap=True)


def show_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], wrapped: str = "") -> None:
    """Print a table.

    Args:
        title: Its heading.
        columns: Headings; those of numbers are lined up at the right.
        rows: Cells as text.
        wrapped: The column that may be broken into lines.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for position, column in enumerate(columns):
        is_number = position > 0 and column in NUMBERS
        table.add_column(column, justify="right" if is_number else "left", no_wrap=column != wrapped)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 200)  # a log has no edge to wrap at
    console.print(table)
