"""Where a search's study is kept: SQLite with a write-ahead log in the stage's folder, or in memory."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import optuna

from learnforge.errors import StageError
from learnforge_kit.search.trials import sqlite_url
from learnforge_plugins.stages.search.study_file import StudyFile

Direction = Literal["maximize", "minimize"]


@contextlib.contextmanager
def open_study(
    path: Path | None,
    name: str,
    directions: Sequence[Direction],
    sampler: optuna.samplers.BaseSampler | None = None,
    metrics: Sequence[str] = (),
) -> Iterator[optuna.Study]:
    """Open a study, creating it where there is none, and close its database at the end of the block.

    Args:
        path: The SQLite file; None keeps the study in memory.
        name: Name of the study, the stage's.
        directions: `maximize` or `minimize` for each objective.
        sampler: The searcher's sampler; reading needs none.
        metrics: Names of the objectives, which dashboards and reports show.

    Raises:
        StageError: The file is damaged, or the disk refuses it.
    """
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = StudyFile(_sqlite(path)) if path else optuna.storages.InMemoryStorage()
    except Exception as error:
        optuna.logging.set_verbosity(verbosity)
        raise _unreadable(path, error) from error
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            directions=list(directions),
            sampler=sampler or optuna.samplers.RandomSampler(),
            load_if_exists=True,
        )
        if metrics and study.metric_names is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                study.set_metric_names(list(metrics))
        yield study
        store_asked(study)
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("sqlalchemy", "sqlite3", "alembic") or isinstance(
            error, optuna.exceptions.StorageInternalError
        ):
            raise _unreadable(path, error) from error
        raise
    finally:
        optuna.logging.set_verbosity(verbosity)
        storage.remove_session()


def store_asked(study: optuna.Study) -> None:
    """Store what was asked of a study, which is done before it runs."""
    storage = study._storage  # Optuna has no public way to it
    if isinstance(storage, StudyFile):
        storage.write()


def _unreadable(path: Path | None, error: Exception) -> StageError:
    """Say what keeps a database from being read or written, in the words of the database."""
    cause = error.__cause__ or getattr(error, "orig", None) or error
    words = str(cause).splitlines()[0]
    if "malformed" in words or "not a database" in words or "corrupt" in words:
        return StageError(
            f"{path} cannot be read as the study of a search: {words}. Put a copy back; or remove it, and "
            "all its trials run again"
        )
    ways_out = {
        "full": "make room",
        "disk I/O": "look after the disk",
        "readonly": "let it be written",
        "unable to open": "let it be read and written",
        "locked": "end the other process that uses it",
    }
    way_out = next((way for said, way in ways_out.items() if said in words), "mend that")
    return StageError(f"{path} cannot be used: {words}; {way_out}, and the search goes on from there")


def _sqlite(path: Path) -> optuna.storages.RDBStorage:
    import sqlalchemy  # optuna's own dependency; slow to import, so only where a database is opened

    path.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(sqlite_url(path), engine_kwargs={"connect_args": {"timeout": 60}})
    with storage.engine.connect() as connection:
        connection.execute(sqlalchemy.text("PRAGMA journal_mode=WAL"))
    storage.engine.dispose()  # the connections from here on do not wait for the disk
    sqlalchemy.event.listen(storage.engine, "connect", _hurry)
    return storage


def _hurry(connection: Any, record: Any) -> None:
    """Leave it to the system when to write to the disk: a kill loses nothing, a power cut at most the last
    trials, which then run again.
    """
    connection.execute("PRAGMA synchronous=NORMAL")
