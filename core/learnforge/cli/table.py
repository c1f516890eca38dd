"""What the terminal shows at the end of a run."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from learnforge.report.sections import STAGE_COLUMNS, stage_row
from learnforge.report.summary import RunSummary


def show_run(run: RunSummary) -> None:
    """Print the table of stages and where the report is."""
    table = Table(title=f"{run.name}: {run.state}", title_justify="left")
    for column in STAGE_COLUMNS:
        table.add_column(
            column, justify="right" if column in ("parameters", "macs", "latency", "seconds") else "left"
        )
    for stage in run.stages:
        table.add_row(*stage_row(stage))
    console = Console()
    console.print(table)
    console.print(f"report: {run.folder / 'report.html'}", soft_wrap=True)
