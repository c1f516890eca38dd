"""What the terminal shows at the end of a run."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from learnforge.report.sections import STAGE_COLUMNS, stage_row
from learnforge.report.summary import RunSummary


def show_run(run: RunSummary) -> None:
    """Print the table of stages and where the report is."""
    table = Table(title=f"{run.name}: {run.state}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in STAGE_COLUMNS:
        is_number = column in ("parameters", "macs", "latency", "seconds")
        table.add_column(column, justify="right" if is_number else "left", no_wrap=column != "against")
    for stage in run.stages:
        table.add_row(*stage_row(stage))
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 120)  # a log has no edge to wrap at
    console.print(table)
    console.print(f"report: {run.folder / 'report.html'}", soft_wrap=True)
