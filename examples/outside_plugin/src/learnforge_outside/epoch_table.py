"""Writes every epoch of a run to `epochs.csv` in the run's folder, and counts them in the report."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from learnforge import Run, RunSummary, Section, hookimpl

_FOLDERS: list[Path] = []


@hookimpl
def learnforge_run_started(run: Run) -> None:
    """Note where the run is kept; a run without a folder is not written down."""
    _FOLDERS[:] = [run.folder] if run.folder else []


@hookimpl
def learnforge_epoch_finished(stage: str, metrics: Mapping[str, Any]) -> None:
    """Append a line."""
    for folder in _FOLDERS:
        with (folder / "epochs.csv").open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow([stage, metrics["part"], metrics["epoch"], metrics["loss"]])


@hookimpl
def learnforge_report_sections(run: RunSummary) -> Iterable[Section]:
    """Say how many epochs there were."""
    table = Path(run.folder) / "epochs.csv"
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    return [Section("Epochs", f"{len(lines)} epochs are in {table.name}.")]
