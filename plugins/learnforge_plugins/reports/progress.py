"""A run's folder as a report shows it: its record, and what a search that is not finished has
found so far.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import evolve

from learnforge.report import RunSummary, StageSummary
from learnforge_kit.search.trials import read_objectives, read_records, sqlite_url
from learnforge_plugins.reports.reading import read_summary
from learnforge_plugins.stages.measured import count_states

STUDIES = ("study.db", "options.db", "student.db")
"""Files of studies in a stage's folder: of an architecture search, of its options, of a student."""


def read_run(folder: Path) -> RunSummary:
    """Read a run's folder, also while the run goes on.

    Raises:
        RunError: It holds no run.
    """
    summary = read_summary(folder)
    return evolve(summary, stages=tuple(_with_progress(folder, stage) for stage in summary.stages))


def _with_progress(folder: Path, stage: StageSummary) -> StageSummary:
    if stage.metrics:
        return stage
    found = (_read_study(folder / stage.name / file) for file in STUDIES)
    return evolve(stage, progress=next(filter(None, found), {}))


def _read_study(file: Path) -> dict[str, Any]:
    """Read what a search has told its study, also while it goes on."""
    if not file.exists():
        return {}
    import optuna

    storage = optuna.storages.RDBStorage(sqlite_url(file))
    try:
        (study,) = optuna.study.get_all_study_names(storage)
        found = optuna.load_study(study_name=study, storage=storage)
        history, objectives = read_records(found), read_objectives(found)
    except ValueError:  # just opened, it holds no study yet
        return {}
    finally:
        storage.remove_session()
        storage.engine.dispose()
    return {"history": history, "objectives": objectives, **count_states(history)} if history else {}
