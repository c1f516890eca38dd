"""Reads a run's folder into what reports show. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learnforge.errors import RunError
from learnforge.files import hash_file, read_record, stage_folder, vet_folder
from learnforge.report import RunSummary, StageSummary


def read_summary(folder: Path) -> RunSummary:
    """Read the record of a run's folder, also while the run goes on; what its searches have found so far is
    left to reports.

    Raises:
        RunError: It holds no run, or links that lead out of it.
    """
    try:
        data = read_record(folder / "run.json")
        vet_folder(folder)
        stages = tuple(_read_stage(folder, stage) for stage in data["stages"])
        keys = ("name", "state", "seed", "device", "threads", "versions", "plugins", "processor", "day")
        return RunSummary(folder=folder, stages=stages, **{key: data[key] for key in keys})
    except FileNotFoundError as error:
        run = folder.parent
        is_stage = (folder / "artifact.json").exists() and (run / "run.json").exists()
        hint = f"it is the folder of a stage, its run is {run}" if is_stage else "run.json is missing"
        raise RunError(f"{folder} holds no run: {hint}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"{type(error).__name__}: {error}"
        raise RunError(f"{folder}/run.json is damaged, {words}; run the recipe again") from error


def _read_stage(folder: Path, data: Mapping[str, Any]) -> StageSummary:
    metrics: dict[str, Any] = {}
    file = stage_folder(folder, data["name"]) / "metrics.json"
    state = data["state"]
    if state in ("finished", "kept") and file.exists():
        try:
            known = read_record(file.with_name("artifact.json"))["sha256"]["metrics.json"]
            state = state if hash_file(file) == known else "damaged"
            metrics = dict(json.loads(file.read_text(encoding="utf-8"))) if state != "damaged" else {}
        except (OSError, ValueError, TypeError, KeyError, RecursionError, RunError):
            state = "damaged"  # shown as such
    parts = data.get("parts", {})
    named = {name: parts[name] for name in ("settings", "tasks", "models") if name in parts}
    code = {f"{own['kind']}.{own['name']}": _spell_code(own) for own in parts.get("code", ())}
    return StageSummary(
        data["name"],
        data["kind"],
        data["method"] or {},
        state,
        data["seconds"],
        data["task"],
        metrics,
        {},
        {**named, "code": code, "fingerprint": data.get("fingerprint", "")},
        data.get("peak_mebibytes"),
    )


def _spell_code(own: Mapping[str, str]) -> str:
    return ", ".join(part for part in (f"{own['distribution']} {own['version']}", own["source"][:8]) if part)
