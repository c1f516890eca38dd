"""The plugin `report`: writes the report of a run that has ended, prints its table, and compares a finished
run with what is here.
"""

from __future__ import annotations

from pathlib import Path

from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice
from learnforge.record import Run
from learnforge.report import Section
from learnforge_plugins.reports.progress import read_run


def report_sections(run: Run) -> list[Section]:
    """Ask the run's plugins for sections of its report; a plugin at fault is named and left out."""
    if run.folder is None:
        return []
    return run.plugins.gather("learnforge_report_sections", Section, run=read_run(run.folder))


@hookimpl
def learnforge_show_run(run: Run) -> None:
    """Write `report.html` and `report.md`, and print the table of stages."""
    from learnforge_plugins.reports.table import show_run
    from learnforge_plugins.reports.write import write_report

    if run.folder is not None:
        show_run(write_report(run.folder, report_sections(run)))


@hookimpl
def learnforge_check_run(folder: Path, choice: PluginChoice) -> list[str]:
    """List how the run's conditions differ from those here."""
    from learnforge_plugins.reports.reproduction import compare

    return [str(difference) for difference in compare(folder, choice)]
