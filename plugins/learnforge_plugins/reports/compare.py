"""Runs side by side: what each stage came to, and where their settings differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from learnforge.plugins.kinds import KINDS
from learnforge.report import RunSummary, Section
from learnforge_plugins.reports import figures
from learnforge_plugins.reports.sections import main_score, stage_columns, stage_row

_IN_NOTHING = frozenset({"learnforge_progress", *(kind.hook for kind in KINDS.values())})
"""Hooks that bring methods, which stand with their stages, and what only shows."""


def compare_runs(runs: Sequence[RunSummary]) -> list[Section]:
    """Return the sections of a comparison.

    Args:
        runs: Two or more, in the order in which they are shown.
    """
    names = [str(run.folder) for run in runs]
    stages = list(dict.fromkeys(stage.name for run in runs for stage in run.stages))
    rows = [
        (row[0], name, *row[1:])
        for stage in stages
        for name, run in zip(names, runs, strict=True)
        for own in run.stages
        if own.name == stage
        for row in (stage_row(own),)
    ]
    headings = stage_columns(stage for run in runs for stage in run.stages)
    columns = (headings[0], "run", *headings[1:])
    words = f"{headings[2].capitalize()} is on test data; seconds are of the whole stage."
    shared = {stage for stage in stages if all(stage in {s.name for s in run.stages} for run in runs)}
    found = [_settings_of(run, shared) for run in runs]
    keys = list(dict.fromkeys(key for own in found for key in own))
    different = _explained([key for key in keys if len({own.get(key) for own in found}) > 1])
    settings = [(key, *(own.get(key, "") for own in found)) for key in different]
    return [
        Section("Stages, run by run", words, columns, rows, _pictures(stages, names, runs)),
        Section(
            "Where the runs differ",
            "" if settings else "In nothing: fingerprints, seed, device, plugins and versions are the same.",
            ("what", *names) if settings else (),
            settings,
        ),
    ]


def _explained(different: Sequence[str]) -> list[str]:
    """Leave out fingerprints that differ because of the seed, the stage's settings, or a stage above; what
    is left is of the data.
    """
    shown: list[str] = []
    is_above = "run.seed" in different
    for key in different:
        stage, _, rest = key.rpartition(".")
        if rest != "fingerprint":
            shown.append(key)
            continue
        if not is_above and not any(other.startswith(f"{stage}.") for other in different if other != key):
            shown.append(key)
        is_above = True
    return shown


def _settings_of(run: RunSummary, shared: Collection[str]) -> dict[str, str]:
    """Return a run's settings, as {where: value}; of stages that not all runs have, that it has them."""
    found = {"run.seed": str(run.seed), "run.device": run.device}
    hearing = [own["name"] for own in run.plugins.get("loaded", ()) if set(own["hooks"]) - _IN_NOTHING]
    found["plugins"] = ", ".join(hearing)  # methods stand with their stages
    found |= {f"version of {name}": value for name, value in run.versions.items()}
    for stage in run.stages:
        if stage.name not in shared:
            found[stage.name] = f"{stage.kind} by {stage.method.get('use', '')}"
            continue
        found |= _flat(stage.name, {"kind": stage.kind, "method": stage.method, **stage.parts})
    return found


def _flat(path: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {k: v for name, inner in value.items() for k, v in _flat(f"{path}.{name}", inner).items()}
    if isinstance(value, (list, tuple)) and any(isinstance(inner, Mapping) for inner in value):
        return _flat(path, {str(place): inner for place, inner in enumerate(value)})
    return {path: value if isinstance(value, str) else json.dumps(value)}


def _pictures(stages: Sequence[str], names: Sequence[str], runs: Sequence[RunSummary]) -> list[Any]:
    """Draw the accuracy of each stage in each run, if any has one."""
    scores: dict[str, list[float | None]] = {}
    for name, run in zip(names, runs, strict=True):
        known = {stage.name: main_score(stage.metrics) for stage in run.stages if stage.is_finished}
        scores[name] = [known.get(stage) for stage in stages]
    if not any(score is not None for own in scores.values() for score in own):
        return []
    return [figures.bars("Accuracy on test data", stages, scores)]
