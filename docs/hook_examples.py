"""A plugin file with an example for every hook that is not about methods; `learnforge new` shows those.

`learnforge run digits --plugin docs/hook_examples.py` runs them all.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import pluggy
import torch
from attrs import evolve

from learnforge import (
    Artifact,
    Batch,
    Cost,
    PluginChoice,
    Progress,
    Run,
    RunSummary,
    Section,
    Silence,
    TaskInfo,
    hookimpl,
    hookspec,
)

NOTES: list[str] = []


@hookimpl
def learnforge_vet_design(design: Mapping[str, Any], cost: Cost, stage: str) -> str | None:
    NOTES.append("vet_design")
    if cost.peak_activation_bytes > 256 * 1024:
        return f"needs {cost.peak_activation_bytes:,} bytes of memory, the device has 256 KiB"
    return None


@hookimpl
def learnforge_batch(
    batch: Batch, task: TaskInfo, stage: str, part: str, generator: torch.Generator
) -> Batch | None:
    NOTES.append("batch")
    images = batch.images.clone()
    row = int(torch.randint(task.input_shape[1], (), generator=generator))
    images[:, :, row] = 0  # one row of every image is hidden
    return evolve(batch, images=images)


@hookimpl
def learnforge_run_started(run: Run) -> None:
    NOTES.append(f"run_started: {run.name} with seed {run.seed}")


@hookimpl
def learnforge_stage_started(stage: str, kind: str) -> None:
    NOTES.append(f"stage_started: {stage}")


@hookimpl
def learnforge_trial_finished(stage: str, trial: Mapping[str, Any]) -> None:
    NOTES.append(f"trial_finished: {trial['number']} {trial['state']}, {trial['metrics']}")


@hookimpl
def learnforge_epoch_finished(stage: str, metrics: Mapping[str, Any]) -> None:
    NOTES.append(f"epoch_finished: {metrics['part']} {metrics['epoch']}, loss {metrics['loss']:.3f}")


@hookimpl
def learnforge_stage_finished(stage: str, artifact: Artifact) -> None:
    NOTES.append(f"stage_finished: {stage}, {artifact.metrics['test_accuracy']:.1%}")


@hookimpl
def learnforge_run_finished(run: Run) -> None:
    NOTES.append(f"run_finished: {len(run.artifacts)} artifacts")


@hookimpl
def learnforge_run_failed(run: Run, error: BaseException) -> None:
    NOTES.append(f"run_failed: {error}")


class Dots(Silence):
    """A dot for each step."""

    def advance(self, text: str = "") -> None:
        """Write the dot."""
        click.echo(".", nl=False, err=True)


NEEDED = "json"


@hookimpl
def learnforge_missing() -> Iterable[str]:
    return [] if importlib.util.find_spec(NEEDED) else [f"pip install {NEEDED}"]


@hookimpl
def learnforge_progress(is_command: bool) -> Progress | None:
    NOTES.append("progress")
    return Dots() if is_command else None


@hookimpl
def learnforge_report_sections(run: RunSummary) -> Iterable[Section]:
    rows = [(stage.name, f"{stage.seconds:.1f}") for stage in run.stages]
    return [Section("Seconds", columns=("stage", "seconds"), rows=rows)]


@hookimpl
def learnforge_show_run(run: Run) -> None:
    click.echo(f"{run.name}: {len(run.artifacts)} stages in {run.folder}")


@hookimpl
def learnforge_check_run(folder: Path, choice: PluginChoice) -> Iterable[str]:
    return [] if (folder / "report.html").is_file() else ["report.html: was written, is missing"]


class OwnHooks:
    """Hooks that this plugin calls, and others implement."""

    @hookspec
    def learnforge_device_is_hot(self, celsius: float) -> None:
        """Hear that the device is too hot."""


@hookimpl
def learnforge_add_hooks(manager: pluggy.PluginManager) -> None:
    manager.add_hookspecs(OwnHooks)


@click.command("hello")
def hello() -> None:
    """Say hello."""
    click.echo("hello")


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    return {"hello": hello}
