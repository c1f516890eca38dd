"""Compares transfer strategies: accuracy against labels per class, beside a training from scratch.

Every seed draws which images keep their labels, and all strategies and the training from scratch get the same
ones. Without any label of the new task, methods that adapt a domain are compared with the network that was
trained on the labelled task alone; they are then developed by what needs no label, the labelled task's
validation accuracy or a validator's score.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import evolve, frozen

from learnforge.check import Tasks, check_recipe
from learnforge.context import Context
from learnforge.errors import Problem
from learnforge.files import fingerprint
from learnforge.kinds.model import Model
from learnforge.kinds.task import GivenTask, Task
from learnforge.options.structure import structure
from learnforge.plugins.registry import Plugins
from learnforge.randomness import derive
from learnforge_kit.drawing import permutation
from learnforge_kit.measured import Assessment
from learnforge_kit.training.loop import train_on_labels
from learnforge_kit.training.settings import Train
from learnforge_plugins.commands.bench import training
from learnforge_plugins.commands.bench.comparison import Job, Results, count_seeds
from learnforge_plugins.commands.bench.entries import Entry, Lineup, read_entries
from learnforge_plugins.commands.bench.report import Cells, Report
from learnforge_plugins.commands.bench.summary import judged, mean, spell_gain, spell_spread
from learnforge_plugins.stages.measured import Unlabelled
from learnforge_plugins.stages.transfer.source import untrained_words

SCRATCH = "from scratch"


SOURCE_ONLY = "source only"


LEAST_STEPS = 200
"""With few labels epochs are short; there are then so many that a training has at least this many steps."""

Labels = Sequence[int | None]
"""Numbers of labels per class of the new task; None for all, 0 for a domain adaptation."""


@frozen
class Result:
    """One network.

    Args:
        entry: Key of its entry.
        labels: Labels per class of the new task; None for all, 0 for a domain adaptation.
        seed: Its seed.
        validation: What it may be chosen by: validation accuracy, in [0, 1]; without labels that of the
            labelled task, or the validator's score.
        test: Test accuracy on the new task; None where it was not asked for.
        seconds: Time that it took.
    """

    entry: str
    labels: int | None
    seed: int
    validation: float
    test: float | None
    seconds: float


@frozen(eq=False, kw_only=True)
class Transfers(training.StageComparison):
    """What all strategies share.

    Args:
        labels: Labels per class that they are compared with.
        source_train: How a source that is a model is trained first, on the stage's `source_task`; None where
            it comes with its weights, or is to start from fresh ones.
    """

    labels: Labels
    source_train: Train | None = None

    command: ClassVar[str] = "transfers"
    ledger: ClassVar[str] = "transfers.jsonl"
    unit: ClassVar[str] = "networks"
    heading: ClassVar[str] = "Transfer strategies"
    subject: ClassVar[str] = "strategy"
    shared: ClassVar[str] = "source"
    result: ClassVar[type] = Result
    key_fields: ClassVar[tuple[str, ...]] = ("entry", "labels")

    @property
    def conditions(self) -> dict[str, Any]:
        stage, labelled = evolve(self.stage, method=None), self.stage.source_task
        return {
            **self.environment,
            "stage": stage.fingerprint_data(),
            "source": self._source_print,
            "source_task": training.load_task(labelled).content if labelled else None,
        }

    @property
    def shared_folder(self) -> Path | None:
        if self.source_train is None:
            return None
        data = training.load_task(self.stage.source_task).content
        return self.folder / "sources" / fingerprint([data, *self._source_print])[:16]

    @property
    def _source_print(self) -> list[Any]:
        return [self.input_print("source"), training.train_print(self.source_train)]

    def train_shared(self, context: Context) -> Any:
        assert self.source_train is not None
        task = training.load_task(self.stage.source_task).load(context.device)
        start = evolve(self.inputs["source"], task=task.info)
        network = start.network(context.plugins, context.derive("network")).to(context.device)
        train_on_labels(network, task, self.source_train, context, self.shared)
        return start.with_state(network)

    def keys(self, entries: Sequence[Entry]) -> dict[Any, tuple[Any, ...]]:
        return {
            (entry.key, count): (entry, count)
            for count in self.labels
            for entry in (baseline_of(count), *entries)
            if entry.method is None or is_compared(entry, count)
        }

    def run(self, plugins: Plugins, job: Job) -> Result:
        """Carry the source over and judge it."""
        (labels,) = job.case
        task = self.load_task()
        task = keep_labels(task, labels, job.seed) if labels else task
        judged_task = training.judged_task(task, job.is_final)
        stage, labelled = self.stage, task
        if labels != 0 or stage.source_task is None:
            stage = evolve(stage, source_task=None, validator=None)
        else:
            labelled = training.load_task(stage.source_task)
            stage = evolve(stage, source_task=GivenTask(labelled))
        stage = evolve(stage, train=lengthen(stage.train, len(labelled.train)))
        inputs = self.ready_inputs
        start = time.perf_counter()
        with self.job_context(job, plugins) as context:
            method = job.entry.method
            work = stage.run_baseline if method is None else evolve(stage, method=method).run
            m = work(judged_task, inputs, context).metrics
            seconds = time.perf_counter() - start
        test = m["test_accuracy"] if job.is_final else None
        return Result(job.entry.key, labels, job.seed, _chosen_by(m, labels), test, seconds)

    def report(self, entries: Sequence[Entry], found: Results, is_final: bool, plugins: Plugins) -> Report:
        """Make the table, and a picture of accuracy against labels."""
        words = (
            "The last epoch's accuracy in per cent, mean ± standard deviation over seeds; gain over the "
            "baseline of the same seed and labels: mean ± standard error, and how many of them it is."
        )
        title, seeds = f"Transfer to {self.load_task().info.name}", count_seeds(found)
        label, figures = f"transfers, {seeds} seeds", self._figures(entries, found)
        table = as_rows(entries, self.labels, found, self.stage.validator is not None)
        return Report(title, words, table, label=label, figures=figures)

    def _figures(self, entries: Sequence[Entry], found: Results) -> list[Any]:
        from learnforge_plugins.reports.figures import lines_figure

        task, counts = self.load_task(), [count for count in self.labels if count != 0]
        if len(counts) < 2:
            return []
        most = len(task.train) / task.info.outputs
        curves = {
            entry.name: [
                mean(judged(found[entry.key, count])) if (entry.key, count) in found else None
                for count in counts
            ]
            for entry in (Entry.baseline(SCRATCH), *(e for e in entries if e.method.uses_labels))
        }
        places = [most if count is None else float(count) for count in counts]
        picture = lines_figure("Accuracy against labels", "labels per class", "accuracy", places, curves)
        picture.update_xaxes(type="log")
        return [picture]


def read_comparison(changes: Mapping[str, Any], labels: Labels, folder: Path, plugins: Plugins) -> Transfers:
    """Read task, source and training.

    Args:
        changes: `task`, `source_train`, and keys of a transfer stage.
        labels: Labels per class; without any the source task must have the new task's classes.
        folder: Keeps source and results.
        plugins: The plugins in use.

    Raises:
        RecipeError: Something is wrong or missing; all of it is listed.
    """
    training.require(changes, ["task", "from"], "give `--{}`")
    methods = {"from": "model", "source_task": "task", "validator": "validator"}
    table = training.stage_table("transfer", {}, changes, methods, plugins)
    source_train = table.pop("source_train", None)
    # a method that takes every setting stands in the place that is left open
    use = "dann" if "source_task" in table else "fine-tune"
    parsed, stage, new_task = training.parse_stage({**table, "use": use, "baseline": False}, plugins)
    problems = training.find_ranges(stage)
    if source_train is not None:
        source_train = structure(Train, source_train, "source_train", problems, plugins.resolve)
        if stage.source_task is None:
            problems.append(Problem("source_task", "is missing; the source is trained on it"))
        if not isinstance(stage.source, Model):
            problems.append(Problem("from", "must be a model to be trained first"))
    training.refuse(problems)
    checked = stage
    if 0 not in labels:  # the source task serves to train the source, whatever its classes
        plain = plugins.load("transfer", "fine-tune")()
        checked = evolve(stage, method=plain, source_task=None, validator=None)
    check_recipe(evolve(parsed, stages=(checked,)), plugins, Tasks())
    shared = {"stage": stage, "task": new_task, "folder": folder, "device": training.read_device({})}
    return Transfers(**shared, labels=labels, source_train=source_train)


def parse_entries(texts: Sequence[str], comparison: Transfers, plugins: Plugins) -> Lineup:
    """Read the strategies to compare; without `texts` all that are installed and that the labels are for.

    Returns:
        The entries, and {name: reason} of installed ones that were left out.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    entries, left_out = read_entries("transfer", texts, plugins)
    fitting = [entry for entry in entries if any(is_compared(entry, n) for n in comparison.labels)]
    problems = [Problem(entry.name, _misfit(entry)) for entry in entries if texts and entry not in fitting]
    entries = entries if texts else fitting
    if comparison.source_train is None:
        source, info = comparison.stage.source, comparison.load_task().info
        found = {entry.name: untrained_words(entry.method, source, info) for entry in entries}
        hint = "or train it first, `--source-train`"
        faults = {name: f"the source {words}; {hint}" for name, words in found.items() if words}
        if texts:
            problems += [Problem(name, words) for name, words in faults.items()]
        else:
            entries = [entry for entry in entries if entry.name not in faults]
            left_out |= faults
    if 0 in comparison.labels and comparison.stage.source_task is None:
        problems.append(Problem("source_task", "is missing; `--labels 0` adapts from a labelled task"))
    training.refuse(problems, "transfers")
    return entries, left_out


def is_compared(entry: Entry, labels: int | None) -> bool:
    """Tell whether a method is for a number of labels: those that need none for 0, others for some."""
    return (labels == 0) != bool(entry.method.uses_labels)


def _misfit(entry: Entry) -> str:
    if entry.method.uses_labels:
        return "learns from labels; ask for some, `--labels 5`"
    return "needs no label of the new task; ask for `--labels 0`"


def baseline_of(labels: int | None) -> Entry:
    """Return what strategies are compared with."""
    return Entry.baseline(SOURCE_ONLY if labels == 0 else SCRATCH)


def _chosen_by(metrics: Mapping[str, Any], labels: int | None) -> float:
    """Return what may be looked at before all is chosen."""
    if labels != 0:
        return Assessment.of(metrics).validation
    return Unlabelled.of(metrics).score


def keep_labels(task: Task, per_class: int, seed: int) -> Task:
    """Return a task with so many training images of each class, drawn by the seed, or all where there
    are fewer.
    """
    labels = task.train.labels.cpu()
    kept = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        order = permutation(derive(seed, "labels", label), len(members))
        kept.append(members[order[:per_class]])
    return evolve(task, train=task.train.select(torch.cat(kept).sort().values))


def lengthen(train: Train, images: int) -> Train:
    """Return a training with epochs enough for `LEAST_STEPS` steps."""
    steps = math.ceil(images / train.batch_size)
    return evolve(train, epochs=max(train.epochs, math.ceil(LEAST_STEPS / steps)) if train.epochs else 0)


def as_rows(entries: Sequence[Entry], labels: Labels, found: Results, has_validator: bool = False) -> Cells:
    """Return headings and rows of the table of results, in per cent: for each number of labels the baseline,
    then strategies by accuracy.

    Args:
        entries: What was compared.
        labels: Labels per class.
        found: The results.
        has_validator: Without labels, and without test accuracies, results are a validator's scores.
    """
    is_final = any(r.test is not None for results in found.values() for r in results)
    rows: list[tuple[str, ...]] = []
    for count in labels:
        base = baseline_of(count)
        baseline = judged(found[base.key, count])
        scale = 1 if has_validator and count == 0 and not is_final else 100
        compared = [entry for entry in entries if (entry.key, count) in found]
        compared.sort(key=lambda entry: -mean(judged(found[entry.key, count])))
        for entry in (base, *compared):
            results = found[entry.key, count]
            values, seconds = judged(results), mean([r.seconds for r in results])
            gain = ("", "") if entry is base else spell_gain(values, baseline, scale)
            labelled = "all" if count is None else str(count)
            rows.append((labelled, entry.name, spell_spread(values, scale), *gain, f"{seconds:.1f}"))
    split = "test" if is_final else "validation"
    return ("labels", "strategy", split, "gain ± error", "errors", "seconds"), rows
