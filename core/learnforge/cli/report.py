"""`learnforge report`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report", short_help="Write a run's report anew.")
@click.argument("folder", type=click.Path(path_type=Path))
def command(folder: Path) -> None:
    """Write report.html and report.md of the run in FOLDER, also while it still runs, and show its table.

    Sections of plugins are written by `learnforge run`, which knows the run's plugins.
    """
    from learnforge.cli.table import show_run
    from learnforge.report.write import write_report

    show_run(write_report(folder))
