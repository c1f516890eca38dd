"""Compares transfer strategies: accuracy against labels per class, beside a training from scratch.

Every seed draws which images keep their labels, and all strategies and the training from scratch get the same
ones. Without any label of the new task, methods that adapt a domain are compared with the network that was
trained on the labelled task alone; they are then developed by what needs no label, the labelled task's
validation accuracy or a validator's score.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, evolve, frozen

from learnforge.artifact import Artifact, load_artifact
from learnforge.check import Tasks, check_recipe, resolve_inputs
from learnforge.context import Context, Progress, choose_device
from learnforge.errors import Problem, RecipeError
from learnforge.files import fingerprint, remove, write_text
from learnforge.fingerprints import model_print
from learnforge.kinds.model import Model
from learnforge.kinds.task import GivenTask, Task, TaskSource
from learnforge.options.structure import structure
from learnforge.plugins.identity import core_version
from learnforge.plugins.registry import Plugins
from learnforge.randomness import derive, permutation
from learnforge.recipe import Recipe, parse_recipe
from learnforge_kit.training.evaluation import evaluate
from learnforge_kit.training.loop import Trainee, fit
from learnforge_kit.training.losses import cross_entropy
from learnforge_kit.training.settings import Train
from learnforge_plugins.commands.bench.entries import (
    Entry,
    paired_gain,
    read_entries,
    spell_out,
    spread,
)
from learnforge_plugins.commands.bench.jobs import Ledger, load_task, mean, run_jobs
from learnforge_plugins.stages.transfer.source import untrained_words
from learnforge_plugins.stages.transfer.stage import TransferStage

SCRATCH = "from scratch"


SOURCE_ONLY = "source only"


LEAST_STEPS = 200
"""With few labels epochs are short; there are then so many that a training has at least this many steps."""


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

    @property
    def judged(self) -> float:
        """The accuracy that strategies are compared by."""
        return self.validation if self.test is None else self.test


@frozen(eq=False)
class Setting:
    """What all strategies share.

    Args:
        stage: The stage, its method left open.
        task: The new task.
        source_train: How a source that is a model is trained first, on the stage's `source_task`; None where
            it comes with its weights, or is to start from fresh ones.
        folder: Keeps the source and what is in training.
        device: Where it trains, as torch spells it.
    """

    stage: TransferStage
    task: TaskSource
    source_train: Train | None
    folder: Path
    device: str = "cpu"

    @property
    def source(self) -> Artifact:
        """The source, trained where it was to be."""
        if self.source_train is not None:
            return load_artifact(self.source_folder)
        recipe: Any = Recipe(None, self.task, (self.stage,), {})  # type: ignore[arg-type]
        return resolve_inputs(self.stage, 0, recipe, load_task(self.task), {})["source"]

    @property
    def source_folder(self) -> Path:
        """Where a source that was trained first is kept; another source has another folder."""
        assert self.stage.source_task is not None
        data = load_task(self.stage.source_task).content
        return self.folder / "sources" / fingerprint([data, self._origin, self._training])[:16]

    @property
    def conditions(self) -> dict[str, Any]:
        """What results depend on, strategy, labels and seed apart."""
        labelled = self.stage.source_task
        return {
            "stage": evolve(self.stage, method=None).fingerprint_data(),
            "source": [self._origin, self._training],
            "task": load_task(self.task).content,
            "source_task": load_task(labelled).content if labelled else None,
            "core": core_version(),
            "torch": torch.__version__,
            "device": self.device,
        }

    @property
    def _origin(self) -> Any:
        reference = self.stage.source
        if isinstance(reference, Model):
            return model_print(reference)
        return self.source.content

    @property
    def _training(self) -> Any:
        return asdict(self.source_train) if self.source_train else None


def read_setting(
    changes: Mapping[str, Any], labels: Sequence[int | None], folder: Path, plugins: Plugins
) -> Setting:
    """Read task, source and training.

    Args:
        changes: `task`, `source_train`, and keys of a transfer stage.
        labels: Labels per class; without any the source task must have the new task's classes.
        folder: See `Setting`.
        plugins: The plugins in use.

    Raises:
        RecipeError: Something is wrong or missing; all of it is listed.
    """
    missing = [key for key in ("task", "from") if key not in changes]
    if missing:
        raise RecipeError([Problem(key, f"is missing; give `--{key}`") for key in missing], "bench")
    table = {key: value for key, value in changes.items() if key not in ("task", "source_train")}
    kinds = {"from": "model", "source_task": "task", "validator": "validator"}
    table = spell_out(table, kinds, plugins)
    task = {"use": changes["task"]} if isinstance(changes["task"], str) else changes["task"]
    # a method that takes every setting stands in the place that is left open
    use = "dann" if "source_task" in table else "fine-tune"
    stage_table = {**table, "use": use, "kind": "transfer", "name": "transfer", "baseline": False}
    data = {"run": {"name": "bench"}, "task": task, "stage": [stage_table]}
    parsed = parse_recipe(data, plugins, "bench")
    (stage,) = parsed.stages
    assert isinstance(stage, TransferStage)
    assert parsed.task is not None
    problems = [Problem(path, "must be a value here, it is a range") for path in stage.ranges]
    source_train = None
    if "source_train" in changes:
        source_train = structure(Train, changes["source_train"], "source_train", problems, plugins.resolve)
        if stage.source_task is None:
            problems.append(Problem("source_task", "is missing; the source is trained on it"))
        if not isinstance(stage.source, Model):
            problems.append(Problem("from", "must be a model to be trained first"))
    if problems:
        raise RecipeError(problems, "bench")
    if 0 not in labels:  # the source task serves to train the source, whatever its classes
        plain = evolve(
            stage, method=plugins.load("transfer", "fine-tune")(), source_task=None, validator=None
        )
        check_recipe(evolve(parsed, stages=(plain,)), plugins, Tasks())
    else:
        check_recipe(parsed, plugins, Tasks())
    return Setting(stage, parsed.task, source_train, folder, str(choose_device("auto")))


def parse_strategies(
    texts: Sequence[str], setting: Setting, labels: Sequence[int | None], plugins: Plugins
) -> tuple[list[Entry], dict[str, str]]:
    """Read the strategies to compare; without `texts` all that are installed and that the labels are for.

    Returns:
        The entries, and {name: reason} of installed ones that were left out.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    entries, needy = read_entries("transfer", texts, plugins)
    left_out = dict.fromkeys(needy, "it needs options")
    if not texts:
        entries = [entry for entry in entries if any(is_compared(entry, count) for count in labels)]
    problems = [
        Problem(
            entry.name,
            "learns from labels; ask for some, `--labels 5`"
            if entry.method.uses_labels
            else "needs no label of the new task; ask for `--labels 0`",
        )
        for entry in entries
        if not any(is_compared(entry, count) for count in labels)
    ]
    if setting.source_train is None:
        info = load_task(setting.task).info
        found = {e.name: untrained_words(e.method, setting.stage.source, info) for e in entries}
        hint = "or train it first, `--source-train`"
        faults = {name: f"the source {words}; {hint}" for name, words in found.items() if words}
        if texts:
            problems += [Problem(name, words) for name, words in faults.items()]
        else:
            entries = [e for e in entries if e.name not in faults]
            left_out |= faults
    if 0 in labels and setting.stage.source_task is None:
        problems.append(Problem("source_task", "is missing; `--labels 0` adapts from a labelled task"))
    if problems:
        raise RecipeError(problems, "transfers")
    return entries, left_out


def is_compared(entry: Entry, labels: int | None) -> bool:
    """Tell whether a method is for a number of labels: those that need none for 0, others for some."""
    return (labels == 0) != bool(entry.method.uses_labels)


def baseline_of(labels: int | None) -> Entry:
    """Return what strategies are compared with."""
    return Entry.baseline(SOURCE_ONLY if labels == 0 else SCRATCH)


def compare(
    entries: Sequence[Entry],
    labels: Sequence[int | None],
    setting: Setting,
    seeds: int,
    plugins: Plugins,
    progress: Progress,
    workers: int = 1,
    is_final: bool = False,
) -> dict[tuple[str, int | None], list[Result]]:
    """Carry the source over with every strategy, number of labels and seed, in parallel; go on with what the
    folder already holds.

    Returns:
        {(key of an entry, labels): its results, by seed}.
    """
    ledger = Ledger(setting.folder / "transfers.jsonl", {**setting.conditions, "final": is_final})
    known = [Result(**data) for data in ledger.read()]
    found = {(r.entry, r.labels, r.seed): r for r in known}
    train_source(setting, plugins, progress)
    wanted = [
        (entry, count, seed)
        for seed in range(seeds)
        for count in labels
        for entry in (baseline_of(count), *entries)
        if entry.method is None or is_compared(entry, count)
    ]
    jobs = [
        (entry, setting, count, seed, is_final, ledger.conditions)
        for entry, count, seed in wanted
        if (entry.key, count, seed) not in found
    ]
    with progress.track("networks", len(wanted), len(wanted) - len(jobs)) as tracker:
        for result in run_jobs(carry, jobs, plugins, workers):
            found[result.entry, result.labels, result.seed] = result
            ledger.append([asdict(result)])
            tracker.advance()
    results: dict[tuple[str, int | None], list[Result]] = {}
    for entry, count, seed in wanted:
        results.setdefault((entry.key, count), []).append(found[entry.key, count, seed])
    return results


def train_source(setting: Setting, plugins: Plugins, progress: Progress) -> None:
    """Train the source once, on one thread, and keep it in its folder."""
    if setting.source_train is None or (setting.source_folder / "artifact.json").exists():
        return
    assert setting.stage.source_task is not None
    device, folder = torch.device(setting.device), setting.source_folder
    task = load_task(setting.stage.source_task).load(device)
    context = Context("source", 0, device, plugins, folder, progress=progress)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        plain = evolve(setting, source_train=None).source
        start = evolve(plain, task=task.info)
        network = start.network(plugins, context.derive("network")).to(device)
        fit(
            Trainee(network, cross_entropy(network, setting.source_train)),
            task.train,
            task.info,
            setting.source_train,
            context,
            "source",
            lambda: evaluate(network, task.validation, task.info).accuracy,
        )
    finally:
        torch.set_num_threads(threads)
    start.with_state(network).save(folder)
    context.clear_checkpoints()


def carry(
    plugins: Plugins,
    entry: Entry,
    setting: Setting,
    labels: int | None,
    seed: int,
    is_final: bool,
    conditions: str,
) -> Result:
    """Carry the source over and judge it; goes on from its checkpoint, if that was made under
    equal conditions.
    """
    whole = load_task(setting.task)
    task = whole if labels in (0, None) else keep_labels(whole, int(labels or 0), seed)
    judged = task if is_final else evolve(task, test=task.validation)
    folder = setting.folder / "training" / f"{entry.key}-{labels}-{seed}-{conditions[:16]}"
    context = Context(entry.name, seed, torch.device(setting.device), plugins, folder)
    stage, labelled = setting.stage, task
    if labels != 0 or stage.source_task is None:
        stage = evolve(stage, source_task=None, validator=None)
    else:
        labelled = load_task(stage.source_task)
        stage = evolve(stage, source_task=GivenTask(labelled))
    stage = evolve(stage, train=lengthen(stage.train, len(labelled.train)))
    inputs = {"source": setting.source}
    start = time.perf_counter()
    if entry.method is None:
        artifact = stage.run_baseline(judged, inputs, context)
    else:
        artifact = evolve(stage, method=entry.method).run(judged, inputs, context)
    seconds = time.perf_counter() - start
    remove(folder)
    m = artifact.metrics
    test = m["test_accuracy"] if is_final else None
    return Result(entry.key, labels, seed, _chosen_by(m, labels), test, seconds)


def _chosen_by(metrics: Mapping[str, Any], labels: int | None) -> float:
    """Return what may be looked at before all is chosen."""
    if labels != 0:
        return float(metrics["validation_accuracy"])
    return float(metrics.get("validator", metrics["source_accuracy"]))


def keep_labels(task: Task, per_class: int, seed: int) -> Task:
    """Return a task with so many training images of each class, drawn by the seed; all where
    there are fewer.
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


def as_rows(
    entries: Sequence[Entry],
    labels: Sequence[int | None],
    found: Mapping[tuple[str, int | None], Sequence[Result]],
    has_validator: bool = False,
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the table of results, in per cent: for each number of labels the baseline,
    then strategies by accuracy.

    Args:
        entries: What was compared.
        labels: Labels per class.
        found: The results.
        has_validator: Without labels, and without test accuracies, results are a validator's scores.
    """
    is_final = any(r.test is not None for results in found.values() for r in results)
    columns = (
        "labels",
        "strategy",
        "test" if is_final else "validation",
        "gain ± error",
        "errors",
        "seconds",
    )
    rows: list[tuple[str, ...]] = []
    for count in labels:
        base = baseline_of(count)
        scale = 1 if has_validator and count == 0 and not is_final else 100
        own = [e for e in entries if (e.key, count) in found]
        own.sort(key=lambda e: -mean([r.judged for r in found[e.key, count]]))
        for entry in (base, *own):
            results = found[entry.key, count]
            values = [r.judged for r in results]
            gain, error = paired_gain(values, [r.judged for r in found[base.key, count]])
            is_base = entry is base
            rows.append(
                (
                    spell_labels(count),
                    entry.name,
                    spread(values, scale),
                    "" if is_base else f"{scale * gain:+.2f} ± {scale * error:.2f}",
                    "" if is_base or not error else f"{gain / error:.1f}",
                    f"{mean([r.seconds for r in results]):.1f}",
                )
            )
    return columns, rows


def spell_labels(labels: int | None) -> str:
    """Spell a number of labels per class."""
    return "all" if labels is None else str(labels)


def write_results(
    setting: Setting,
    entries: Sequence[Entry],
    labels: Sequence[int | None],
    found: Mapping[tuple[str, int | None], Sequence[Result]],
    rows: Any,
    command: str,
) -> None:
    """Write `results.md` and `results.html`: the table and a picture of accuracy against labels."""
    from learnforge.report import Section
    from learnforge_plugins.reports.figures import lines_figure
    from learnforge_plugins.reports.write import page_html, page_markdown

    task = load_task(setting.task)
    counts = [count for count in labels if count != 0]
    most = len(task.train) / task.info.outputs
    curves = {
        entry.name: [
            mean([r.judged for r in found[entry.key, count]]) if (entry.key, count) in found else None
            for count in counts
        ]
        for entry in (Entry.baseline(SCRATCH), *(e for e in entries if e.method.uses_labels))
    }
    places = [most if count is None else float(count) for count in counts]
    pictures = []
    if len(counts) > 1:
        picture = lines_figure("Accuracy against labels", "labels per class", "accuracy", places, curves)
        picture.update_xaxes(type="log")
        pictures.append(picture)
    words = (
        "The last epoch's accuracy in per cent, mean ± standard deviation over seeds; gain over the baseline "
        "of the same seed and labels: mean ± standard error, and how many of them it is. "
        f"Again: {command}"
    )
    columns, cells = rows
    section = Section("Transfer strategies", words, columns, cells, pictures)
    title = f"Transfer to {task.info.name}"
    write_text(setting.folder / "results.html", page_html(title, "learnforge bench transfers", [section]))
    write_text(setting.folder / "results.md", page_markdown(title, [section]))
    shutil.rmtree(setting.folder / "training", ignore_errors=True)
