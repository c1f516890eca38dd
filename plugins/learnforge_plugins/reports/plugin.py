"""The plugin `report`: writes the report of a run that has ended, prints its table, and compares a finished
run with what is here.
"""

from __future__ import annotations

import sys
from pathlib import Path

from learnforge.hookspecs import NOTIFYING, hookimpl
from learnforge.plugins.choice import PluginChoice
from learnforge.plugins.registry import Plugins
from learnforge.record import Run
from learnforge.report import RunSummary, Section
from learnforge_plugins.reports.progress import read_run

_OF_RUNS = ("_run", "_run_started", "_run_finished", "_run_failed", "_progress")
_OF_WORK = {name for name in NOTIFYING if not name.endswith(_OF_RUNS)}
"""Hooks that are not called for a run in which nothing is left to do."""


def report_sections(run: Run) -> list[Section]:
    """Ask a run's plugins for sections of its report; a plugin at fault is named and left out."""
    return [] if run.folder is None else gather_sections(run.plugins, read_run(run.folder))


def gather_sections(plugins: Plugins, run: RunSummary) -> list[Section]:
    """Ask plugins for sections of a run's report; a plugin at fault is named and left out."""
    from learnforge_plugins.reports.write import prove_section

    return plugins.gather("learnforge_report_sections", Section, prove_section, run=run)


@hookimpl
def learnforge_show_run(run: Run) -> None:
    """Write `report.html` and `report.md`, and print the table of stages."""
    from learnforge_plugins.reports.table import show_run
    from learnforge_plugins.reports.write import write_report

    if run.folder is not None:
        show_run(write_report(run.folder, report_sections(run)))
    silent = [own["name"] for own in run.plugins.record()["loaded"] if _OF_WORK & set(own["hooks"])]
    if silent and all(stage.state == "kept" for stage in run.stages):
        print(  # noqa: T201
            f"all stages are kept from an earlier run, so {', '.join(silent)} had nothing to hear of; choose "
            "a new folder with --run to run them again",
            file=sys.stderr,
        )


@hookimpl
def learnforge_check_run(folder: Path, choice: PluginChoice) -> list[str]:
    """List how the run's conditions differ from those here."""
    from learnforge_plugins.reports.reproduction import compare

    return [str(difference) for difference in compare(folder, choice)]
