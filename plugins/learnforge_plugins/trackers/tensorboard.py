"""tensorboard: the numbers of a run for TensorBoard, in `tensorboard` in its folder (extra `tensorboard`).

    $ tensorboard --logdir runs

Tags are `stage/part/name` for trainings, `stage/trial/name` for a search's trials, and `stage/name` for what
a finished stage measured. A run that goes on writes a further file, in which steps that it takes again stand
once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from learnforge import Artifact, Run, hookimpl
from learnforge_kit import scalars

_LOGS: list[_Log] = []


class _Log:
    """A log whose file is made with the first number: a run that finds all stages finished leaves none."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.folder))

    def add(self, tag: str, metrics: Mapping[str, Any], step: int) -> None:
        for name, value in scalars(metrics).items():
            self.writer.add_scalar(f"{tag}/{name}", value, step)

    def close(self) -> None:
        if "writer" in vars(self):
            self.writer.close()


@hookimpl
def learnforge_missing() -> list[str]:
    """Say so if TensorBoard cannot be imported."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        return [f"tensorboard cannot be imported ({error}): pip install 'learnforge[tensorboard]'"]
    return []


@hookimpl
def learnforge_run_started(run: Run) -> None:
    """Open the log; a run without a folder has none."""
    _close()
    if run.folder is not None:
        _LOGS.append(_Log(run.folder / "tensorboard"))


@hookimpl
def learnforge_trial_finished(stage: str, trial: Mapping[str, Any]) -> None:
    """Add what a trial measured."""
    _add(f"{stage}/trial", trial["metrics"], trial["number"])


@hookimpl
def learnforge_epoch_finished(stage: str, metrics: Mapping[str, Any]) -> None:
    """Add what an epoch measured."""
    _add(f"{stage}/{metrics['part']}", metrics, metrics["epoch"])


@hookimpl
def learnforge_stage_finished(stage: str, artifact: Artifact) -> None:
    """Add what a stage measured, and let the file have all."""
    _add(stage, artifact.metrics, 0)
    for log in _LOGS:
        log.writer.flush()


@hookimpl
def learnforge_run_finished(run: Run) -> None:
    """Close the log."""
    _close()


@hookimpl
def learnforge_run_failed(run: Run, error: BaseException) -> None:
    """Close the log."""
    _close()


def _add(tag: str, metrics: Mapping[str, Any], step: int) -> None:
    for log in _LOGS:
        log.add(tag, metrics, step)


def _close() -> None:
    while _LOGS:
        _LOGS.pop().close()
