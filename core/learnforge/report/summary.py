"""Reads a run's folder into what a report shows. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from learnforge.errors import RunError
from learnforge.trials import count_states, read_objectives, read_records


@frozen
class StageSummary:
    """What a report knows of a stage.

    Args:
        name: Name in the recipe.
        kind: Kind of stage.
        method: Its method, `{"use": name, **options}`; empty if it has none.
        state: `waiting`, `running`, `finished`, `kept` or `failed`, also where it was cut off.
        seconds: Time it took.
        task: Facts about its task: name, classes, shape, sizes of the splits.
        metrics: What it measured; empty if it is not finished.
        progress: What a search has found so far, `history`, `objectives` and counts; empty if it is
            finished, or is none.
        told: What it was told beside its method: settings, options of its tasks and models; whose code ran,
            and its fingerprint.
        peak_mebibytes: Memory at its peak; None if it is not known.
    """

    name: str
    kind: str
    method: Mapping[str, Any]
    state: str
    seconds: float
    task: Mapping[str, Any]
    metrics: Mapping[str, Any]
    progress: Mapping[str, Any] = field(factory=dict)
    told: Mapping[str, Any] = field(factory=dict)
    peak_mebibytes: float | None = None

    @property
    def is_finished(self) -> bool:
        """Tell whether there are metrics to show."""
        return bool(self.metrics)


@frozen
class RunSummary:
    """What a report knows of a run.

    Args:
        folder: Its folder.
        name: Its name.
        state: `running`, `finished` or `failed`.
        seed: Its seed.
        device: Where it trained.
        threads: CPU threads it used.
        versions: Versions of Python and libraries.
        stages: Its stages, in order.
        plugins: What it was told of plugins (`wishes`), its `files`, and all that were `loaded`.
        processor: The processor of the machine that ran it last; "" if it is not known.
        day: When its record was last written, `2026-11-28`, UTC; "" if it is not known.
    """

    folder: Path
    name: str
    state: str
    seed: int
    device: str
    threads: int
    versions: Mapping[str, str]
    stages: tuple[StageSummary, ...]
    plugins: Mapping[str, Any] = field(factory=dict)
    processor: str = ""
    day: str = ""


def read_summary(folder: Path) -> RunSummary:
    """Read a run's folder, also while the run goes on.

    Raises:
        RunError: It holds no run.
    """
    try:
        data = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        run = folder.parent
        is_stage = (folder / "artifact.json").exists() and (run / "run.json").exists()
        hint = f"it is the folder of a stage, its run is {run}" if is_stage else "run.json is missing"
        raise RunError(f"{folder} holds no run: {hint}") from error
    except ValueError as error:
        raise RunError(f"{folder}/run.json is damaged: {error}; run the recipe again") from error
    stages = tuple(_read_stage(folder, stage) for stage in data["stages"])
    keys = ("name", "state", "seed", "device", "threads", "versions", "plugins", "processor", "day")
    return RunSummary(folder=folder, stages=stages, **{key: data[key] for key in keys})


def _read_stage(folder: Path, data: Mapping[str, Any]) -> StageSummary:
    metrics: dict[str, Any] = {}
    file = folder / data["name"] / "metrics.json"
    if data["state"] in ("finished", "kept") and file.exists():
        metrics = json.loads(file.read_text(encoding="utf-8"))
    progress: dict[str, Any] = {}
    for file_name in () if metrics else ("study.db", "options.db", "student.db"):
        progress = progress or _read_progress(folder / data["name"] / file_name)
    parts = data.get("parts", {})
    told = {name: parts[name] for name in ("settings", "tasks", "models") if name in parts}
    code = {f"{own['kind']}.{own['name']}": _spell_code(own) for own in parts.get("code", ())}
    return StageSummary(
        data["name"],
        data["kind"],
        data["method"] or {},
        data["state"],
        data["seconds"],
        data["task"],
        metrics,
        progress,
        {**told, "code": code, "fingerprint": data.get("fingerprint", "")},
        data.get("peak_mebibytes"),
    )


def _spell_code(own: Mapping[str, str]) -> str:
    return ", ".join(part for part in (f"{own['distribution']} {own['version']}", own["source"][:8]) if part)


def _read_progress(file: Path) -> dict[str, Any]:
    """Read what a search that is not finished has told its study, also while it goes on."""
    if not file.exists():
        return {}
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    try:
        (study,) = optuna.study.get_all_study_names(storage)
        found = optuna.load_study(study_name=study, storage=storage)
        told, objectives = read_records(found), read_objectives(found)
    except ValueError:  # just opened, it holds no study yet
        return {}
    finally:
        storage.remove_session()
        storage.engine.dispose()
    return {"history": told, "objectives": objectives, **count_states(told)} if told else {}
