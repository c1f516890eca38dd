"""Every hook of learnforge, in the order data flows: the framework's table of contents.

A plugin implements a hook by a function of the same name, marked with `@hookimpl`, in the module that its
entry point names; it may leave out arguments that it does not need. Four sorts of hooks:

- *what exists*: `learnforge_tasks`, `_spaces`, `_models`, `_searchers`, `_evaluators`, `_distillers`,
  `_transfers`, `_validators`, `_meta_learners`, `_optimizers`, `_changes`, `_exporters`, `_executors`,
  `_scores`, `_costs`, `_tables`, `_stages`, `_tuners`. Each returns `{method name: class}`.
- *what may be changed or refused*: `learnforge_vet_design`, `_batch`. They act where the work runs, also in
  worker processes, and an error in one is fatal, since the result would depend on it.
- *what happened*: `learnforge_run_started` to `learnforge_run_failed`. Notifications, fired in the process
  that drives the run. A fault in one is reported with the plugin's name, and nothing else changes.
- *what is needed, what is shown, and growing*: `learnforge_missing`, `_progress`, `_report_sections`,
  `_show_run`, `_check_run`, `_add_hooks`, `_commands`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

from learnforge.plugins.kinds import GROUP

if TYPE_CHECKING:
    from pathlib import Path

    import click
    import torch

    from learnforge.artifact import Artifact
    from learnforge.context import Progress
    from learnforge.kinds.change import Change
    from learnforge.kinds.cost import Cost, CostMeter
    from learnforge.kinds.distiller import Distiller
    from learnforge.kinds.evaluator import Evaluator
    from learnforge.kinds.executor import Executor
    from learnforge.kinds.exporter import Exporter
    from learnforge.kinds.form import Form
    from learnforge.kinds.meta_learner import MetaLearner
    from learnforge.kinds.optimizer import Optimizer
    from learnforge.kinds.score import Score
    from learnforge.kinds.searcher import Searcher
    from learnforge.kinds.space import Space
    from learnforge.kinds.stage import Stage
    from learnforge.kinds.table import Table
    from learnforge.kinds.task import Batch, TaskSource
    from learnforge.kinds.transfer import Transfer
    from learnforge.kinds.tuner import Tuner
    from learnforge.kinds.validator import Validator
    from learnforge.plugins.choice import PluginChoice
    from learnforge.record import Run
    from learnforge.report import RunSummary, Section
    from learnforge.spec import TaskInfo

hookspec = pluggy.HookspecMarker(GROUP)


hookimpl = pluggy.HookimplMarker(GROUP)


# What exists


@hookspec
def learnforge_tasks() -> Mapping[str, type[TaskSource]]:  # type: ignore[empty-body]
    """Offer task sources (entry point `task.NAME`). Called once, when a recipe or a call uses one of
    this plugin's.
    """


@hookspec
def learnforge_forms() -> Mapping[str, type[Form]]:  # type: ignore[empty-body]
    """Offer forms of tasks (entry point `form.NAME`). Called once, on first use."""


@hookspec
def learnforge_spaces() -> Mapping[str, type[Space]]:  # type: ignore[empty-body]
    """Offer search spaces (entry point `space.NAME`). Called once, on first use."""


@hookspec
def learnforge_models() -> Mapping[str, type[Any]]:  # type: ignore[empty-body]
    """Offer models (entry point `model.NAME`), subclasses of `learnforge.Model`. Called on first use."""


@hookspec
def learnforge_searchers() -> Mapping[str, type[Searcher]]:  # type: ignore[empty-body]
    """Offer searchers (entry point `searcher.NAME`). Called once, on first use."""


@hookspec
def learnforge_evaluators() -> Mapping[str, type[Evaluator]]:  # type: ignore[empty-body]
    """Offer evaluators of designs (entry point `evaluator.NAME`). Called once, on first use."""


@hookspec
def learnforge_distillers() -> Mapping[str, type[Distiller]]:  # type: ignore[empty-body]
    """Offer distillers (entry point `distiller.NAME`). Called once, on first use."""


@hookspec
def learnforge_transfers() -> Mapping[str, type[Transfer]]:  # type: ignore[empty-body]
    """Offer transfer strategies (entry point `transfer.NAME`). Called once, on first use."""


@hookspec
def learnforge_validators() -> Mapping[str, type[Validator]]:  # type: ignore[empty-body]
    """Offer label-free validators (entry point `validator.NAME`). Called once, on first use."""


@hookspec
def learnforge_meta_learners() -> Mapping[str, type[MetaLearner]]:  # type: ignore[empty-body]
    """Offer meta-learners (entry point `meta-learner.NAME`). Called once, on first use."""


@hookspec
def learnforge_optimizers() -> Mapping[str, type[Optimizer]]:  # type: ignore[empty-body]
    """Offer optimizers (entry point `optimizer.NAME`). Called once, on first use."""


@hookspec
def learnforge_changes() -> Mapping[str, type[Change]]:  # type: ignore[empty-body]
    """Offer changes of networks (entry point `change.NAME`). Called once, on first use."""


@hookspec
def learnforge_exporters() -> Mapping[str, type[Exporter]]:  # type: ignore[empty-body]
    """Offer exporters (entry point `exporter.NAME`). Called once, on first use."""


@hookspec
def learnforge_executors() -> Mapping[str, type[Executor]]:  # type: ignore[empty-body]
    """Offer executors (entry point `executor.NAME`). Called once, on first use."""


@hookspec
def learnforge_scores() -> Mapping[str, type[Score]]:  # type: ignore[empty-body]
    """Offer zero-cost scores (entry point `score.NAME`). Called once, on first use."""


@hookspec
def learnforge_costs() -> Mapping[str, type[CostMeter]]:  # type: ignore[empty-body]
    """Offer costs of networks (entry point `cost.NAME`). Called once, on first use."""


@hookspec
def learnforge_tables() -> Mapping[str, type[Table]]:  # type: ignore[empty-body]
    """Offer tabular benchmarks (entry point `table.NAME`). Called once, on first use."""


@hookspec
def learnforge_stages() -> Mapping[str, type[Stage]]:  # type: ignore[empty-body]
    """Offer kinds of stage (entry point `stage.KIND`). Called when a recipe has a stage of that kind."""


@hookspec
def learnforge_tuners() -> Mapping[str, type[Tuner]]:  # type: ignore[empty-body]
    """Offer tuners (entry point `tuner.NAME`). Called when a stage has ranges in the place of options."""


# What may be changed or refused


@hookspec(firstresult=True)
def learnforge_vet_design(design: Mapping[str, Any], cost: Cost, stage: str) -> str | None:
    """Refuse a design before any training by returning the reason; return None to let it pass.

    Called where the search is driven, once for each new design, after the recipe's limits.
    """


@hookspec
def learnforge_batch(
    batch: Batch, task: TaskInfo, stage: str, part: str, generator: torch.Generator
) -> Batch | None:
    """Return a changed training batch, or None to leave it.

    Called for every batch that the training loop trains on (not for episodes), after augmentation.
    Each implementation is handed what the one before it returned. `part` is which training of the stage
    it is, such as `student`. Whatever is drawn must come from `generator`, which is on the CPU and the same
    for a batch whenever a training that was cut off comes to it.
    """


# What happened


@hookspec
def learnforge_run_started(run: Run) -> None:
    """Hear that a run begins or goes on, before its first stage."""


@hookspec
def learnforge_stage_started(stage: str, kind: str) -> None:
    """Hear that a stage begins or goes on. Not fired for a stage that is kept from an earlier run."""


@hookspec
def learnforge_trial_finished(stage: str, trial: Mapping[str, Any]) -> None:
    """Hear of a search's trial: number, state, design, metrics, seconds."""


@hookspec
def learnforge_epoch_finished(stage: str, metrics: Mapping[str, Any]) -> None:
    """Hear of a finished epoch of a stage's training: part, epoch, epochs, loss, and what was measured."""


@hookspec
def learnforge_stage_finished(stage: str, artifact: Artifact) -> None:
    """Hear that a stage is finished and its artifact is on the disk."""


@hookspec
def learnforge_run_finished(run: Run) -> None:
    """Hear that every stage is finished, before the report is written."""


@hookspec
def learnforge_run_failed(run: Run, error: BaseException) -> None:
    """Hear that a run ends with an error or with Ctrl-C; its finished stages are kept."""


# What is needed, what is shown, and growing


@hookspec
def learnforge_missing() -> Iterable[str]:  # type: ignore[empty-body]
    """Say what the plugin needs and does not find here, such as a package, and how to install it.

    Called by `learnforge check`, `learnforge doctor`, and before a run, which does not begin if anything
    is missing.
    """


@hookspec(firstresult=True)
def learnforge_progress(is_command: bool) -> Progress | None:
    """Offer what shows how far a run is; return None to leave it to others, or show nothing.

    Called before a run, of `learnforge run` (`is_command`) or of a call in Python. The plugin `progress`
    shows bars or lines on a terminal, and bars below a notebook's cell.
    """


@hookspec
def learnforge_report_sections(run: RunSummary) -> Iterable[Section]:  # type: ignore[empty-body]
    """Add sections to the report; they stand after the core's own."""


@hookspec
def learnforge_show_run(run: Run) -> None:
    """Show a run that has ended to whoever started it. Called by `learnforge run` at its end; the plugin
    `report` writes the report and prints the table of stages.
    """


@hookspec
def learnforge_check_run(folder: Path, choice: PluginChoice) -> Iterable[str]:  # type: ignore[empty-body]
    """Say what would keep a finished run from giving the same bits here. Called by `learnforge check RUN`
    with the run's folder, and with what the command line says of plugins; the plugin `report` compares
    versions, code, data and settings.
    """


@hookspec
def learnforge_add_hooks(manager: pluggy.PluginManager) -> None:
    """Add hook specifications that other plugins implement: `manager.add_hookspecs(module)`. Called
    on loading.
    """


@hookspec
def learnforge_commands() -> Mapping[str, click.Command]:  # type: ignore[empty-body]
    """Offer subcommands (entry point `command.NAME`). Called when the command line is asked for one."""


CHANGING = {"learnforge_vet_design": "str", "learnforge_batch": "Batch"}
"""Hooks that change a result, and the class of what they return beside None: the plugins that implement one
belong to a stage's fingerprint.
"""

REMOTE = ("learnforge_batch",)
"""Hooks that act where the work runs, also in worker processes."""

NOTIFYING = (
    "learnforge_run_started",
    "learnforge_stage_started",
    "learnforge_trial_finished",
    "learnforge_epoch_finished",
    "learnforge_stage_finished",
    "learnforge_run_finished",
    "learnforge_run_failed",
    "learnforge_show_run",
    "learnforge_progress",
)
"""Hooks whose faults are reported and go no further."""
