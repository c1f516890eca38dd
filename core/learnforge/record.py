"""The record of a run: how its stages stand, with which versions and where; what `run.json` holds."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from copy import deepcopy
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import tomli_w
import torch
from attrs import define, evolve, field

from learnforge.artifact import Artifact, html_table
from learnforge.errors import ArtifactError
from learnforge.files import read_record, stage_folder, write_record, write_text
from learnforge.plugins.identity import core_version, spell
from learnforge.plugins.registry import Plugins
from learnforge.recipe import Recipe


@define(eq=False)
class StageRecord:
    """How a stage stands in a run.

    Args:
        name: Name in the recipe.
        kind: Its kind.
        method: Its method as a recipe would write it.
        fingerprint: What its result depends on.
        state: `waiting`, `running`, `finished`, `kept` or `failed`, also where it was cut off.
        seconds: Time that its last attempt took.
        task: Facts about its task.
        parts: Its settings, tasks and models with all their options, and whose code they are.
        made_with: Versions, threads, device, workers and plugins of the attempt that finished it.
        peak_mebibytes: Memory at its peak in that attempt, see `PeakMemory`; None if it is not known.
    """

    name: str
    kind: str
    method: Mapping[str, Any] | None
    fingerprint: str
    state: str = "waiting"
    seconds: float = 0.0
    task: Mapping[str, Any] = field(factory=dict)
    parts: Mapping[str, Any] = field(factory=dict)
    made_with: Mapping[str, Any] = field(factory=dict)
    peak_mebibytes: float | None = None


@define(eq=False)
class Run:
    """A run: where it is, what it is to do, and what it has made.

    Args:
        folder: Its folder; None if nothing is kept.
        recipe: What it runs.
        seed: The run's seed.
        device: Where it trains.
        plugins: Its plugins.
        stages: How each stage stands, in order.
        artifacts: What finished stages made, by name.
        state: `running`, `finished` or `failed`.
    """

    folder: Path | None
    recipe: Recipe
    seed: int
    device: str
    plugins: Plugins
    stages: list[StageRecord] = field(factory=list)
    artifacts: dict[str, Artifact] = field(factory=dict)
    state: str = "running"

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.recipe.run.name

    def _repr_html_(self) -> str:
        """Show the run in a notebook."""
        rows = {"run": self.name, "state": self.state}
        rows |= {"folder": str(self.folder)} if self.folder is not None else {}
        return html_table(rows | {name: repr(artifact) for name, artifact in self.artifacts.items()})

    def write(self) -> None:
        """Write `run.json` and `recipe.toml`."""
        if self.folder is None:
            return
        data = {
            "name": self.name,
            "state": self.state,
            "seed": self.seed,
            "device": self.device,
            "threads": torch.get_num_threads(),
            "processor": processor(),
            "day": datetime.now(UTC).strftime("%Y-%m-%d"),
            "versions": versions(),
            "plugins": self.plugins.record(),
            "stages": [attrs.asdict(stage) for stage in self.stages],
        }
        write_record(self.folder / "run.json", data)
        write_text(self.folder / "recipe.toml", write_toml(self.recipe.data))


def versions() -> dict[str, str]:
    """Return the versions that a result can depend on."""
    names = ("learnforge", "torch", "torchvision", "optuna", "numpy")
    found = {"python": platform.python_version(), "machine": platform.machine()}
    return found | {name: version(name) for name in names} | {"learnforge": core_version()}


@functools.cache
def processor() -> str:
    """Return the name of this machine's processor, and how many cores it has."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):  # Linux says more
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"


def find_artifact(folder: Path, is_learner: bool = False) -> Path:
    """Return the folder of an artifact: the one given, or in a run's folder that of its last finished stage.

    Args:
        folder: Of a stage or a run.
        is_learner: Want the last one that has learnt to learn.

    Raises:
        ArtifactError: There is none.
        RunError: The run's record is damaged.
    """
    if (folder / "artifact.json").exists() or not (folder / "run.json").exists():
        return folder
    try:
        stages = [stage_folder(folder, stage["name"]) for stage in read_record(folder / "run.json")["stages"]]
    except (KeyError, TypeError) as error:
        raise ArtifactError(f"{folder} cannot be read as a run: {error!r}; name a stage's folder") from error
    finished = [stage for stage in stages if (stage / "artifact.json").exists()]
    if is_learner:
        finished = [s for s in finished if read_record(s / "artifact.json").get("adapter_options")]
    if not finished:
        what = "finished meta stage" if is_learner else "finished stage yet"
        raise ArtifactError(f"{folder} holds no {what}")
    return finished[-1]


def copy_for_listeners(value: Any) -> Any:
    """Return what a listener may do with as it likes."""
    if isinstance(value, Artifact):
        weights = {n: t.clone() for n, t in value.weights.items()} if value.weights is not None else None
        adapter = {name: tensor.clone() for name, tensor in value.adapter.items()}
        metrics, options = deepcopy(dict(value.metrics)), deepcopy(dict(value.adapter_options))
        return evolve(value, weights=weights, adapter=adapter, metrics=metrics, adapter_options=options)
    if isinstance(value, Run):
        artifacts = {name: copy_for_listeners(artifact) for name, artifact in value.artifacts.items()}
        from learnforge.plugins.sealed import SealedPlugins  # for runs that somebody listens to

        stages, plugins = [evolve(stage) for stage in value.stages], SealedPlugins(value.plugins)
        return evolve(value, artifacts=artifacts, stages=stages, plugins=plugins)
    return deepcopy(value) if isinstance(value, Mapping) else value


def loggable(value: Any) -> Any:
    """Return what the event log holds of a value: of an artifact its fingerprint and short metrics."""
    if isinstance(value, Artifact):
        small = {k: v for k, v in value.metrics.items() if isinstance(v, (int, float, str))}
        return {"fingerprint": value.provenance.fingerprint, "metrics": small}
    if isinstance(value, Run):
        return {"name": value.name, "state": value.state}
    return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else value


def write_toml(data: Mapping[str, Any]) -> str:
    """Return a recipe's data as TOML, which `read_recipe` reads back.

    Objects that a call from Python put there are written as a recipe would name them; keys without a value
    are left out, since TOML has none.
    """
    return tomli_w.dumps(_plain_toml(data))


def _plain_toml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain_toml(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain_toml(item) for item in value]
    if attrs.has(type(value)):
        return _plain_toml(spell(value))
    return value if isinstance(value, (bool, int, float, str)) else str(value)
