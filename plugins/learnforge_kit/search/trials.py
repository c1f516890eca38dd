"""What a search leaves in its study, for those who read it: the driver's notes, and what it was after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

NOTE = "learnforge"
"""Attribute of an Optuna trial that holds what the driver noted of it, when it is told."""


def sqlite_url(path: Path) -> str:
    """Return the URL of a study's database, whatever characters its path has."""
    import sqlalchemy  # optuna's own dependency; slow to import, so only where a database is opened

    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string()


def read_records(study: optuna.Study) -> list[dict[str, Any]]:
    """Return what the driver noted of every told trial, oldest first."""
    trials = study.get_trials(deepcopy=False)
    return [dict(t.user_attrs[NOTE]) for t in trials if NOTE in t.user_attrs]


def read_objectives(study: optuna.Study) -> list[str]:
    """Return a study's objectives as a recipe has them, a minus before those to make small."""
    names = study.metric_names or [f"objective {i}" for i in range(len(study.directions))]
    signs = ["-" if direction.name == "MINIMIZE" else "" for direction in study.directions]
    return [sign + name for sign, name in zip(signs, names, strict=True)]
