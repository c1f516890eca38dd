"""csv: every number of a run in one table, `metrics.csv` in its folder.

    stage,part,step,name,value
    distill,student,3,loss,0.412

`part` is that of a training, `trial` for a search's trials, or empty for what a finished stage measured. A
run that goes on writes steps that it takes again in the place of the old ones.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from learnforge import Artifact, Run, cut_torn_line, hookimpl, write_text
from learnforge_kit import scalars

COLUMNS = ("stage", "part", "step", "name", "value")
Key = tuple[str, str, str, str]


class _Table:
    """The numbers of the run that is going on.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.rows: dict[Key, float] = {}
        cut_torn_line(path)
        if path.exists():
            with path.open(newline="", encoding="utf-8") as stream:
                for row in csv.DictReader(stream):
                    key = row["stage"], row["part"], row["step"], row["name"]
                    self.rows[key] = float(row["value"])

    def add(self, stage: str, part: str, step: int | None, metrics: Mapping[str, Any]) -> None:
        """Write numbers at the end, or where they stood before."""
        place = "" if step is None else str(step)
        new = {(stage, part, place, name): value for name, value in scalars(metrics).items()}
        is_again = not self.rows.keys().isdisjoint(new)
        self.rows |= new
        if is_again or not self.path.exists():
            write_text(self.path, _lines([COLUMNS, *((*key, value) for key, value in self.rows.items())]))
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(_lines((*key, value) for key, value in new.items()))


_TABLES: list[_Table] = []


@hookimpl
def learnforge_run_started(run: Run) -> None:
    """Open the table of the run; a run without a folder has none."""
    _TABLES[:] = [_Table(run.folder / "metrics.csv")] if run.folder else []


@hookimpl
def learnforge_trial_finished(stage: str, trial: Mapping[str, Any]) -> None:
    """Add what a trial measured."""
    for table in _TABLES:
        table.add(stage, "trial", trial["number"], trial["metrics"])


@hookimpl
def learnforge_epoch_finished(stage: str, metrics: Mapping[str, Any]) -> None:
    """Add what an epoch measured."""
    for table in _TABLES:
        table.add(stage, metrics["part"], metrics["epoch"], metrics)


@hookimpl
def learnforge_stage_finished(stage: str, artifact: Artifact) -> None:
    """Add what a stage measured."""
    for table in _TABLES:
        table.add(stage, "", None, artifact.metrics)


def _lines(rows: Iterable[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
