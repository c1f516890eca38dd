"""Compares distillers: the same teacher, student, data, epochs, initial weights and batches for all of them.

Every seed gives a student its initial weights and its batches, which all methods and the baseline share, so
gains are paired. What is reported is the last epoch's student; nothing is chosen by the test split.
"""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, evolve, frozen

from learnforge.artifact import Artifact, load_artifact
from learnforge.check import Tasks, check_recipe, resolve_inputs
from learnforge.context import Context, Progress, choose_device
from learnforge.errors import GapWarning, PlaceError, Problem, RecipeError
from learnforge.files import fingerprint, remove, write_text
from learnforge.fingerprints import model_print
from learnforge.kinds.model import Model
from learnforge.kinds.task import Task, TaskSource
from learnforge.plugins.identity import core_version
from learnforge.plugins.registry import Plugins
from learnforge.recipe import Recipe, parse_recipe
from learnforge_kit.networks.heads import count_parameters
from learnforge_plugins.commands.bench.entries import (
    Entry,
    paired_gain,
    read_entries,
    spell_out,
)
from learnforge_plugins.commands.bench.jobs import (
    Ledger,
    deviation,
    load_task,
    mean,
    run_jobs,
)
from learnforge_plugins.commands.bench.published import Published
from learnforge_plugins.stages.distill.stage import DistillStage

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


@frozen(eq=False)
class Setting:
    """What all methods share.

    Args:
        stage: The stage, its method left open.
        task: The task.
        folder: Keeps teacher, cache and what is in training.
        device: Where it trains, as torch spells it.
    """

    stage: DistillStage
    task: TaskSource
    folder: Path
    device: str = "cpu"

    @property
    def inputs(self) -> dict[str, Artifact]:
        """Teacher and student as the stage names them."""
        recipe: Any = Recipe(None, self.task, (self.stage,), {})  # type: ignore[arg-type]
        return resolve_inputs(self.stage, 0, recipe, self.load_task(), {})

    def load_task(self) -> Task:
        """Read the task, once in a process."""
        return load_task(self.task)

    @property
    def teacher_folder(self) -> Path:
        """Where the teacher is kept; another teacher has another folder."""
        train = self.stage.teacher_train
        made_of = [self.load_task().content, _print_of(self, "teacher"), asdict(train) if train else None]
        return self.folder / "teachers" / fingerprint(made_of)[:16]

    @property
    def conditions(self) -> dict[str, Any]:
        """What students depend on, their method and seed apart."""
        stage = evolve(self.stage, method=None)
        inputs = {role: _print_of(self, role) for role in stage.describe_inputs()}
        data = {"stage": stage.fingerprint_data(), "inputs": inputs, "task": self.load_task().content}
        return {**data, "core": core_version(), "torch": torch.__version__, "device": self.device}


def _print_of(setting: Setting, role: str) -> Any:
    """Return what an input is: a model's options and code, or an artifact's content."""
    reference = setting.stage.describe_inputs()[role]
    if isinstance(reference, Model):
        return model_print(reference)
    return setting.inputs[role].content


@frozen
class Line:
    """What one entry came to; accuracies in [0, 1], on the test split where it was asked for.

    Args:
        name: Name of the entry.
        seeds: Number of students.
        validation: Mean validation accuracy.
        validation_deviation: Its standard deviation over seeds.
        test: Mean test accuracy, or None.
        test_deviation: Its standard deviation.
        gain: Mean difference to the baseline of the same seed, in the last of the two accuracies.
        error: Standard error of the gain.
        seconds: Mean time of a student.
        computed: Mean number of views that the teacher computed.
    """

    name: str
    seeds: int
    validation: float
    validation_deviation: float
    test: float | None
    test_deviation: float | None
    gain: float
    error: float
    seconds: float
    computed: float


def read_setting(
    recipe: Mapping[str, Any], changes: Mapping[str, Any], folder: Path, plugins: Plugins
) -> Setting:
    """Read teacher, student, task and training out of a recipe's first distill stage, with changes.

    Args:
        recipe: A recipe's data; may be empty where `changes` say everything.
        changes: Keys of the stage, and `task`, that replace the recipe's.
        folder: See `Setting`.
        plugins: The plugins in use.

    Raises:
        RecipeError: Something is wrong or missing; all of it is listed.
    """
    stages = [table for table in recipe.get("stage", ()) if table.get("kind") == "distill"]
    table = {"use": "kd", **(stages[0] if stages else {}), "kind": "distill", "name": "distill"}
    data = {"run": {"name": "bench"}, "task": changes.get("task", table.pop("task", recipe.get("task")))}
    table |= {key: value for key, value in changes.items() if key != "task"}
    table |= {"baseline": False, "cache": "off"}
    data = spell_out(data, {"task": "task"}, plugins)
    table = spell_out(table, {"teacher": "model", "student": "model"}, plugins)
    forms = {"teacher": (list,), "student": (list, Mapping)}
    wrong = [
        Problem(key, f"must be a single network here, got {table[key]!r}")
        for key, kinds in forms.items()
        if isinstance(table.get(key), kinds) and "use" not in table[key]
    ]
    if wrong:
        raise RecipeError(wrong, "bench")
    missing = [key for key in ("teacher", "student") if key not in table]
    missing += ["task"] if data["task"] is None else []
    if missing:
        words = "is missing; give a model or an artifact's folder, `--{}`" + (
            "" if recipe else ", or a `--recipe`"
        )
        raise RecipeError([Problem(key, words.format(key)) for key in missing], "bench")
    earlier = {table.get("name", table.get("kind")) for table in recipe.get("stage", ())}
    named = [key for key in ("teacher", "student") if isinstance(table[key], str) and table[key] in earlier]
    if named:
        words = "is the stage {!r} of the recipe; run it, and give that stage's folder, `--{} runs/NAME/{}`"
        problems = [Problem(key, words.format(table[key], key, table[key])) for key in named]
        raise RecipeError(problems, "bench")
    parsed = parse_recipe({**data, "stage": [table]}, plugins, "bench")
    (stage,) = parsed.stages
    assert isinstance(stage, DistillStage)
    assert parsed.task is not None
    if stage.ranges:
        problems = [Problem(path, "must be a value here, it is a range") for path in stage.ranges]
        raise RecipeError(problems, "bench")
    check_recipe(parsed, plugins, Tasks())
    device = recipe.get("run", {}).get("device", "auto")
    return Setting(stage, parsed.task, folder, str(choose_device(device)))


def parse_entries(texts: Sequence[str], plugins: Plugins) -> tuple[list[Entry], list[str]]:
    """Read what is to be compared: distillers by name, or tables as a recipe has them; the baseline
    comes first.

    Returns:
        The entries, and the names of installed distillers that were left out because they need options; only
        where `texts` are empty, which means all that are installed.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    entries, left_out = read_entries("distiller", texts, plugins)
    return [Entry.baseline(BASELINE), *entries], left_out


def check_entries(
    entries: Sequence[Entry], setting: Setting, is_strict: bool, plugins: Plugins
) -> tuple[list[Entry], dict[str, str]]:
    """Find the methods that cannot be wired to teacher and student, before anything trains.

    Args:
        entries: What is to be compared.
        setting: Teacher and student.
        is_strict: Raise an error for them, where they were asked for by name.
        plugins: The plugins in use.

    Returns:
        The entries that can, and {name: why not} of the others.

    Raises:
        RecipeError: One cannot, and `is_strict`.
    """
    task, inputs = setting.load_task(), setting.inputs
    faults = {
        entry.name: str(problem)
        for entry in entries
        if entry.method is not None
        for problem in evolve(setting.stage, method=entry.method).check(task, inputs, plugins)
    }
    if faults and is_strict:
        raise RecipeError([Problem(name, words) for name, words in faults.items()], "bench")
    return [entry for entry in entries if entry.name not in faults], faults


def compare(
    entries: Sequence[Entry],
    setting: Setting,
    seeds: int,
    plugins: Plugins,
    progress: Progress,
    workers: int = 1,
    is_final: bool = False,
) -> dict[str, list[Result]]:
    """Train a student with every entry and seed, in parallel; go on with what the folder already holds.

    Args:
        entries: What is compared, the baseline among them.
        setting: What they share.
        seeds: Students of each entry, with the seeds 0, 1, ….
        plugins: The plugins in use.
        progress: Shows how far it is.
        workers: Processes, one thread each.
        is_final: Judge students on the test split.

    Returns:
        {key of an entry: its results, by seed}.
    """
    ledger = Ledger(setting.folder / "students.jsonl", {**setting.conditions, "final": is_final})
    found = {(r.entry, r.seed): r for r in (Result(**data) for data in ledger.read())}
    ready_teacher(setting, plugins, progress)
    jobs = [
        (entry, setting, seed, is_final, ledger.conditions)
        for seed in range(seeds)
        for entry in entries
        if (entry.key, seed) not in found
    ]
    total = len(entries) * seeds
    with progress.track("students", total, total - len(jobs)) as tracker:
        for result in run_jobs(train_student, jobs, plugins, workers):
            found[result.entry, result.seed] = result
            ledger.append([asdict(result)])
            tracker.advance()
    return {entry.key: [found[entry.key, seed] for seed in range(seeds)] for entry in entries}


def ready_teacher(setting: Setting, plugins: Plugins, progress: Progress) -> None:
    """Train the teacher once, on one thread, and keep it in its folder."""
    folder = setting.teacher_folder
    if (folder / "artifact.json").exists():
        return
    context = Context("teacher", 0, torch.device(setting.device), plugins, folder, progress=progress)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        artifact = setting.stage.train_teacher(setting.load_task(), setting.inputs, context)
    finally:
        torch.set_num_threads(threads)
    artifact.save(folder)
    context.clear_checkpoints()


def train_student(
    plugins: Plugins, entry: Entry, setting: Setting, seed: int, is_final: bool, conditions: str
) -> Result:
    """Train and judge one student; goes on from its checkpoint, if it was made under equal conditions."""
    task = setting.load_task()
    judged = task if is_final else evolve(task, test=task.validation)
    folder = setting.folder / "training" / f"{entry.key}-{seed}-{conditions[:16]}"
    device = torch.device(setting.device)
    context = Context(entry.name, seed, device, plugins, folder, setting.folder / "cache")
    inputs = {**setting.inputs, "teacher": load_artifact(setting.teacher_folder)}
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GapWarning)  # the table says how large both are
        artifact = _teach(entry, setting.stage, judged, inputs, context)
    seconds = time.perf_counter() - start
    remove(folder)
    m = artifact.metrics
    forwards = m.get("teacher_forwards", {"computed": 0, "asked": 0})
    test = m["test_accuracy"] if is_final else None
    return Result(
        entry.key, seed, m["validation_accuracy"], test, seconds, forwards["computed"], forwards["asked"]
    )


def _teach(
    entry: Entry, stage: DistillStage, task: Task, inputs: Mapping[str, Artifact], context: Context
) -> Artifact:
    """Train a student, with a cache where the method and the teacher allow one."""
    if entry.method is None:
        return stage.run_baseline(task, inputs, context)
    stage = evolve(stage, method=entry.method)
    if stage.listens_to_teacher(task, inputs, context):
        return stage.run(task, inputs, context)
    try:
        return evolve(stage, cache="views").run(task, inputs, context)
    except PlaceError:
        return stage.run(task, inputs, context)


def summarise(entries: Sequence[Entry], found: Mapping[str, Sequence[Result]]) -> list[Line]:
    """Reduce results to a line for each entry, the baseline first, then by gain."""
    base = found[BASELINE]
    lines = [_line(entry, found[entry.key], base) for entry in entries]
    return sorted(lines, key=lambda line: (line.name != BASELINE, -line.gain))


def _line(entry: Entry, results: Sequence[Result], base: Sequence[Result]) -> Line:
    validation = [r.validation for r in results]
    test = [r.test for r in results if r.test is not None]
    gain, error = paired_gain([_judged(r) for r in results], [_judged(r) for r in base])
    return Line(
        entry.name,
        len(results),
        mean(validation),
        deviation(validation),
        mean(test) if test else None,
        deviation(test) if test else None,
        gain,
        error,
        mean([r.seconds for r in results]),
        mean([float(r.computed) for r in results]),
    )


def _judged(result: Result) -> float:
    return result.validation if result.test is None else result.test


def as_rows(
    lines: Sequence[Line], published: Sequence[Published] = ()
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the table of results, in per cent."""
    known = {p.method: p for p in published}
    has_tests = any(line.test is not None for line in lines)
    columns = ["distiller", "validation"]
    columns += ["test"] if has_tests else []
    columns += ["gain ± error", "errors", "seconds", "teacher views"]
    columns += ["published"] if known else []
    rows = []
    for line in lines:
        is_base = line.name == BASELINE
        row = [line.name, _spread(line.validation, line.validation_deviation)]
        if line.test is not None and line.test_deviation is not None:
            row.append(_spread(line.test, line.test_deviation))
        row.append("" if is_base else f"{100 * line.gain:+.2f} ± {100 * line.error:.2f}")
        row.append("" if is_base or not line.error else f"{line.gain / line.error:.1f}")
        row += [f"{line.seconds:.0f}", f"{line.computed:,.0f}"]
        if known:
            row.append(f"{known[line.name].accuracy:.2f}" if line.name in known else "")
        rows.append(tuple(row))
    return tuple(columns), rows


def _spread(value: float, spread: float) -> str:
    return f"{100 * value:.2f} ± {100 * spread:.2f}"


def describe_setting(setting: Setting, found: Mapping[str, Sequence[Result]], plugins: Plugins) -> str:
    """Say in a sentence what was compared."""
    teacher, inputs = load_artifact(setting.teacher_folder), setting.inputs
    sizes = [count_parameters(a.network(plugins)) for a in (teacher, inputs["student"])]
    epochs, seeds = setting.stage.train.epochs, len(found[BASELINE])
    names = [_words(artifact.spec.table) for artifact in (teacher, inputs["student"])]
    return (
        f"Teacher {names[0]} with {sizes[0]:,} parameters, student {names[1]} with {sizes[1]:,}, {epochs} "
        f"epochs, {seeds} seeds, the last epoch's accuracy in per cent: mean ± standard deviation; gain over "
        f"the baseline of the same seed: mean ± standard error, and how many of them it is"
    )


def _words(table: Mapping[str, Any]) -> str:
    options = [f"{name}={value}" for name, value in table.items() if name != "use"]
    return f"{table['use']} ({', '.join(options)})"


def write_results(setting: Setting, words: str, lines: Sequence[Line], rows: Any, command: str) -> None:
    """Write `results.md` and `results.html`: the table and a picture of the gains."""
    from learnforge.report import Section
    from learnforge_plugins.reports.figures import bars_figure
    from learnforge_plugins.reports.write import page_html, page_markdown

    methods = [line for line in lines if line.name != BASELINE]
    picture = bars_figure(
        "Gain over the baseline",
        "points of accuracy",
        [line.name for line in methods],
        [100 * line.gain for line in methods],
        [100 * line.error for line in methods],
    )
    columns, cells = rows
    section = Section("Distillers", f"{words}. Again: {command}", columns, cells, [picture])
    title = f"Distillers on {setting.load_task().info.name}"
    write_text(setting.folder / "results.html", page_html(title, "learnforge bench distillers", [section]))
    write_text(setting.folder / "results.md", page_markdown(title, [section]))
    shutil.rmtree(setting.folder / "training", ignore_errors=True)
