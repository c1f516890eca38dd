"""Compares distillers: the same teacher, student, data, epochs, initial weights and batches for all of them.

Every seed gives a student its initial weights and its batches, which all methods and the baseline share, so
gains are paired. What is reported is the last epoch's student; nothing is chosen by the test split.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from attrs import evolve, frozen

from learnforge.artifact import Artifact
from learnforge.check import Tasks, check_recipe
from learnforge.context import Context
from learnforge.errors import Problem
from learnforge.files import fingerprint
from learnforge.kinds.model import Model
from learnforge.kinds.task import Task
from learnforge.plugins.identity import spell
from learnforge.plugins.registry import Plugins
from learnforge_kit.errors import GapWarning, PlaceError
from learnforge_kit.networks.layers import count_parameters
from learnforge_plugins.commands.bench import training
from learnforge_plugins.commands.bench.comparison import Job, Results, count_seeds
from learnforge_plugins.commands.bench.entries import Entry, Lineup, read_entries
from learnforge_plugins.commands.bench.published import published_for
from learnforge_plugins.commands.bench.report import Cells, Report
from learnforge_plugins.commands.bench.summary import judged, mean, paired_gain, spell_gain, spell_spread

BASELINE = "baseline"


@frozen
class Result:
    """One student.

    Args:
        entry: Key of its entry.
        seed: Its seed.
        validation: Validation accuracy after the last epoch, in [0, 1].
        test: Test accuracy; None where it was not asked for.
        seconds: Time that it took, the teacher's training left out.
        computed: Views that the teacher computed.
        asked: Views that it was asked for.
    """

    entry: str
    seed: int
    validation: float
    test: float | None
    seconds: float
    computed: int = 0
    asked: int = 0


@frozen(eq=False, kw_only=True)
class Distillers(training.StageComparison):
    """What all methods share: teacher, student and how they are trained."""

    command: ClassVar[str] = "distillers"
    ledger: ClassVar[str] = "students.jsonl"
    unit: ClassVar[str] = "students"
    heading: ClassVar[str] = "Distillers"
    subject: ClassVar[str] = "distiller"
    shared: ClassVar[str] = "teacher"
    result: ClassVar[type] = Result

    @property
    def conditions(self) -> dict[str, Any]:
        stage = evolve(self.stage, method=None)
        inputs = {role: self.input_print(role) for role in stage.describe_inputs()}
        return {**self.environment, "stage": stage.fingerprint_data(), "inputs": inputs}

    @property
    def shared_folder(self) -> Path:
        train = self.stage.teacher_train
        made_of = [self.load_task().content, self.input_print("teacher"), training.train_print(train)]
        return self.folder / "teachers" / fingerprint(made_of)[:16]

    def train_shared(self, context: Context) -> Any:
        return self.stage.train_teacher(self.load_task(), self.inputs, context)

    def run(self, plugins: Plugins, job: Job) -> Result:
        """Train and judge one student."""
        task = training.judged_task(self.load_task(), job.is_final)
        inputs = self.ready_inputs
        start = time.perf_counter()
        with (
            self.job_context(job, plugins, cache_folder=self.folder / "cache") as context,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", GapWarning)  # the table says how large both are
            m: Any = self._teach(job.entry, task, inputs, context).metrics
            seconds = time.perf_counter() - start
        views = m.get("teacher_forwards", {})
        counts = (views.get("computed", 0), views.get("asked", 0))
        test = m["test_accuracy"] if job.is_final else None
        return Result(job.entry.key, job.seed, m["validation_accuracy"], test, seconds, *counts)

    def _teach(self, entry: Entry, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Any:
        """Train a student, with a cache where the method and the teacher allow one."""
        if entry.method is None:
            return self.stage.run_baseline(task, inputs, context)
        stage = evolve(self.stage, method=entry.method)
        is_cachable = entry.method.shows_images and not entry.method.trains_teacher
        if is_cachable and not stage.listens_to_teacher(task, inputs, context):
            try:
                return evolve(stage, cache="views").run(task, inputs, context)
            except PlaceError:
                pass
        return stage.run(task, inputs, context)

    def report(self, entries: Sequence[Entry], found: Results, is_final: bool, plugins: Plugins) -> Report:
        """Make the table, with published results of the same networks, and a picture of the gains."""
        from learnforge_plugins.reports.figures import bars_figure

        roles = (self.stage.teacher, self.stage.student)
        teacher, student = (spell(model) if isinstance(model, Model) else {} for model in roles)
        published = published_for(spell(self.task), teacher, student, self.stage.train)
        methods = [entry for entry in rank(entries, found) if entry.key != BASELINE]
        gains = [paired_gain(judged(found[entry.key]), judged(found[BASELINE])) for entry in methods]
        picture = bars_figure(
            "Gain over the baseline",
            "points of accuracy",
            [entry.name for entry in methods],
            [100 * gain for gain, _ in gains],
            [100 * error for _, error in gains],
        )
        note = self._describe(count_seeds(found), plugins)
        title = f"Distillers on {self.load_task().info.name}"
        table = as_rows(entries, found, published)
        return Report(title, f"{note}.", table, label="distillers", note=note, figures=[picture])

    def _describe(self, seeds: int, plugins: Plugins) -> str:
        """Say in a sentence what was compared."""
        inputs = self.ready_inputs
        teacher, student = (
            f"{_spell_network(artifact)} with {count_parameters(artifact.network(plugins)):,}"
            for artifact in (inputs["teacher"], inputs["student"])
        )
        return (
            f"Teacher {teacher} parameters, student {student}, {self.stage.train.epochs} epochs, {seeds} "
            "seeds, the last epoch's accuracy in per cent: mean ± standard deviation; gain over the baseline "
            "of the same seed: mean ± standard error, and how many of them it is"
        )


def read_comparison(
    recipe: Mapping[str, Any], changes: Mapping[str, Any], folder: Path, plugins: Plugins
) -> Distillers:
    """Read teacher, student, task and training out of a recipe's first distill stage, with changes.

    Args:
        recipe: A recipe's data; may be empty where `changes` say everything.
        changes: Keys of the stage, and `task`, that replace the recipe's.
        folder: Keeps teacher, cache and results.
        plugins: The plugins in use.

    Raises:
        RecipeError: Something is wrong or missing; all of it is listed.
    """
    models = {"teacher": "model", "student": "model"}
    table = training.stage_table("distill", recipe, changes, models, plugins)
    table = {"use": "kd", **table, "baseline": False, "cache": "off"}
    many = [key for key in models if isinstance(table.get(key), (list, dict)) and "use" not in table[key]]
    words = "must be a single network here, got {!r}"
    training.refuse([Problem(key, words.format(table[key])) for key in many])
    hint = "give a model or an artifact's folder, `--{}`" + ("" if recipe else ", or a `--recipe`")
    training.require(table, [*models, "task"], hint)
    earlier = {stage.get("name", stage.get("kind")) for stage in recipe.get("stage", ())}
    words = "is the stage {0!r} of the recipe; run it, and give that stage's folder, `--{1} runs/NAME/{0}`"
    named = [key for key in models if isinstance(table[key], str) and table[key] in earlier]
    training.refuse([Problem(key, words.format(table[key], key)) for key in named])
    parsed, stage, task = training.parse_stage(table, plugins)
    training.refuse(training.find_ranges(stage))
    check_recipe(parsed, plugins, Tasks())
    return Distillers(stage=stage, task=task, folder=folder, device=training.read_device(recipe))


def parse_entries(texts: Sequence[str], comparison: Distillers, plugins: Plugins) -> Lineup:
    """Read what is to be compared: distillers by name, or tables as a recipe has them; the baseline
    comes first.

    Returns:
        The entries, and {name: reason} of installed distillers that were left out, because they need options
        or cannot be wired to teacher and student; only where `texts` are empty, which means all that are
        installed.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    entries, left_out = read_entries("distiller", texts, plugins)
    task, inputs = comparison.load_task(), comparison.inputs
    faults = {
        entry.name: str(problem)
        for entry in entries
        for problem in evolve(comparison.stage, method=entry.method).check(task, inputs, plugins)
    }
    if texts:
        training.refuse([Problem(name, words) for name, words in faults.items()])
    entries = [entry for entry in entries if entry.name not in faults]
    return [Entry.baseline(BASELINE), *entries], {**left_out, **faults}


def rank(entries: Sequence[Entry], found: Results) -> list[Entry]:
    """Sort entries: the baseline first, then by gain."""
    return sorted(entries, key=lambda entry: (entry.key != BASELINE, -mean(judged(found[entry.key]))))


def as_rows(entries: Sequence[Entry], found: Results, published: Mapping[str, float] | None = None) -> Cells:
    """Return headings and rows of the table of results, in per cent.

    Args:
        entries: What was compared.
        found: The results.
        published: {name of an entry: its published accuracy}.
    """
    is_final = any(r.test is not None for results in found.values() for r in results)
    tests, theirs = ("test",) if is_final else (), ("published",) if published else ()
    measured = ("gain ± error", "errors", "seconds", "teacher views")
    rows: list[tuple[str, ...]] = []
    for entry in rank(entries, found):
        results, base = found[entry.key], found[BASELINE]
        row = [entry.name, spell_spread([r.validation for r in results])]
        row += [spell_spread([r.test for r in results])] if is_final else []
        row += spell_gain(judged(results), judged(base)) if entry.key != BASELINE else ("", "")
        seconds, views = mean([r.seconds for r in results]), mean([r.computed for r in results])
        row += [f"{seconds:.0f}", f"{views:,.0f}"]
        if published:
            row.append(f"{published[entry.name]:.2f}" if entry.name in published else "")
        rows.append(tuple(row))
    return ("distiller", "validation", *tests, *measured, *theirs), rows


def _spell_network(artifact: Artifact) -> str:
    table = artifact.spec.table
    options = [f"{name}={value}" for name, value in table.items() if name != "use"]
    return f"{table['use']} ({', '.join(options)})"
