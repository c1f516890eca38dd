"""Compares meta-learners on the same episodes: accuracy after adaptation, seconds of an outer step, memory.

Every seed gives a network its initial weights and draws the episodes that it is trained and judged on, the
same for all methods. These want other outer loops (Reptile plain steps, prototypical networks more ways), so
an entry may change settings of the meta stage for itself.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import asdict, evolve, frozen

from learnforge.artifact import Artifact
from learnforge.check import Tasks, check_recipe, resolve_inputs
from learnforge.context import Context, Progress, choose_device
from learnforge.errors import Problem, RecipeError
from learnforge.files import fingerprint, remove, write_text
from learnforge.fingerprints import model_print
from learnforge.kinds.model import Model
from learnforge.kinds.task import Task, TaskSource
from learnforge.memory import PeakMemory
from learnforge.options.tables import read_table
from learnforge.plugins.identity import core_version
from learnforge.plugins.registry import Plugins
from learnforge.recipe import Recipe, parse_recipe
from learnforge_plugins.commands.bench.entries import spell_out
from learnforge_plugins.commands.bench.jobs import (
    Ledger,
    deviation,
    load_task,
    mean,
    run_jobs,
)
from learnforge_plugins.commands.bench.published import published_few_shot
from learnforge_plugins.stages.meta.stage import MEASURES, MetaStage


@frozen(eq=False)
class Entry:
    """One meta-learner with its settings.

    Args:
        name: As the table of results shows it.
        stage: The meta stage that trains it.
        key: Equal for equal methods and settings.
    """

    name: str
    stage: MetaStage
    key: str


@frozen(eq=False)
class Setting:
    """What all entries share.

    Args:
        recipe: The stage's table, for entries to change.
        task: The task.
        folder: Keeps results and what is in training.
        device: Where it trains, as torch spells it.
    """

    recipe: Mapping[str, Any]
    task: TaskSource
    folder: Path
    device: str = "cpu"


@frozen
class Result:
    """One meta-trained network.

    Args:
        entry: Key of its entry.
        seed: Its seed.
        score: Accuracy after adaptation, in [0, 1], or the loss where targets are numbers; over the test
            episodes if they were asked for, otherwise over as many of the validation split.
        interval: Half of its 95 % confidence interval over episodes.
        before: The score before adaptation.
        seconds: Of an outer step; None where it was reported too rarely.
        mebibytes: The most memory that the whole process held, libraries and data included; on a GPU its
            tensors alone; None where the system does not tell.
        engine: Engine that computed it.
    """

    entry: str
    seed: int
    score: float
    interval: float
    before: float
    seconds: float | None
    mebibytes: float | None
    engine: str


def read_setting(
    recipe: Mapping[str, Any], changes: Mapping[str, Any], folder: Path, plugins: Plugins
) -> Setting:
    """Read task and settings out of a recipe's first meta stage, with changes.

    Args:
        recipe: A recipe's data; may be empty where `changes` say everything.
        changes: Keys of the stage, and `task`, that replace the recipe's.
        folder: See `Setting`.
        plugins: The plugins in use.

    Raises:
        RecipeError: Something is wrong or missing; all of it is listed.
    """
    stages = [table for table in recipe.get("stage", ()) if table.get("kind") == "meta"]
    table = {**(stages[0] if stages else {}), "kind": "meta", "name": "meta", **changes}
    table = spell_out(table, {"from": "model", "task": "task"}, plugins)
    table.setdefault("task", recipe.get("task"))
    missing = [key for key in ("task", "from") if not table.get(key)]
    if missing:
        raise RecipeError(
            [Problem(key, f"is missing; give `--{key}`, or a `--recipe`") for key in missing], "bench"
        )
    for key in ("use", "options"):
        table.pop(key, None)
    parsed = parse_recipe(_as_recipe({**table, "use": "maml"}), plugins, "bench")
    assert parsed.task is not None
    device = recipe.get("run", {}).get("device", "auto")
    return Setting(table, parsed.task, folder, str(choose_device(device)))


def parse_entries(
    texts: Sequence[str], setting: Setting, plugins: Plugins
) -> tuple[list[Entry], dict[str, str]]:
    """Read what is compared: meta-learners by name, or tables as in a recipe, in which `stage = { … }`
    changes settings of the stage.

    Returns:
        The entries, and {name: reason} of installed methods that cannot learn the task; only where `texts`
        are empty, which means all that are installed.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    problems: list[Problem] = []
    left_out: dict[str, str] = {}
    entries = []
    for text in texts or plugins.names("meta-learner"):
        table = dict(read_table(text))
        own = table.pop("stage", {})
        use = table.pop("use")
        stage_table = {**setting.recipe, **own, "use": use, "options": table}
        try:
            parsed = parse_recipe(_as_recipe(stage_table), plugins, "bench")
            check_recipe(parsed, plugins, Tasks())
        except RecipeError as error:
            if not texts:
                left_out[text] = "; ".join(str(problem) for problem in error.problems)
                continue
            problems += [Problem(f"{text}: {p.path}", p.message) for p in error.problems]
            continue
        (stage,) = parsed.stages
        assert isinstance(stage, MetaStage)
        problems += [
            Problem(f"{text}: {path}", "must be a value here, it is a range") for path in stage.ranges
        ]
        words = [f"{name}={value}" for name, value in {**table, **own}.items()]
        key = fingerprint([stage.fingerprint_data(), _source_print(stage, setting)])[:16]
        entries.append(Entry(", ".join([use, *words]), stage, key))
    if not entries:  # what is wrong with all of them is no fault of theirs
        problems += [Problem(name, reason) for name, reason in left_out.items()]
    if problems:
        raise RecipeError(problems, "meta-learners")
    return entries, left_out


def compare(
    entries: Sequence[Entry],
    setting: Setting,
    seeds: int,
    plugins: Plugins,
    progress: Progress,
    workers: int = 1,
    is_final: bool = False,
) -> dict[str, list[Result]]:
    """Meta-train a network with every entry and seed, each in a process of its own; go on with what the
    folder already holds.

    Returns:
        {key of an entry: its results, by seed}.
    """
    conditions = {
        "task": load_task(setting.task).content,
        "core": core_version(),
        "torch": torch.__version__,
        "device": setting.device,
        "final": is_final,
    }
    ledger = Ledger(setting.folder / "meta-learners.jsonl", conditions)
    found = {(r.entry, r.seed): r for r in (Result(**data) for data in ledger.read())}
    wanted = [(entry, seed) for seed in range(seeds) for entry in entries]
    jobs = [
        (entry, setting, seed, is_final, ledger.conditions)
        for entry, seed in wanted
        if (entry.key, seed) not in found
    ]
    with progress.track("networks", len(wanted), len(wanted) - len(jobs)) as tracker:
        for result in run_jobs(train, jobs, plugins, workers, is_each_alone=True):
            found[result.entry, result.seed] = result
            ledger.append([asdict(result)])
            tracker.advance()
    return {entry.key: [found[entry.key, seed] for seed in range(seeds)] for entry in entries}


def train(
    plugins: Plugins, entry: Entry, setting: Setting, seed: int, is_final: bool, conditions: str
) -> Result:
    """Meta-train and judge one network; goes on from its checkpoint, if conditions are equal."""
    task = load_task(setting.task)
    stage = evolve(entry.stage, validation_episodes=0)
    if not is_final:  # the validation split may have the classes that are trained on
        task, stage = _validating(task), evolve(stage, allow_seen=True)
    folder = setting.folder / "training" / f"{entry.key}-{seed}-{conditions[:16]}"
    times: list[tuple[int, float]] = []

    def note(event: str, metrics: Mapping[str, Any] | None = None, **data: Any) -> None:
        if event == "epoch_finished" and metrics is not None:
            times.append((int(metrics["epoch"]), time.perf_counter()))

    context = Context(entry.name, seed, torch.device(setting.device), plugins, folder, emit=note)
    memory = PeakMemory(context.device)
    artifact = stage.run(task, _inputs(stage, setting), context)
    remove(folder)
    m = artifact.metrics
    scores = m["test"]
    return Result(
        entry.key, seed, scores["after"], scores["after_interval"], scores["before"], _of_a_step(times),
        memory.mebibytes(), m["engine"],
    )  # fmt: skip


def as_rows(
    entries: Sequence[Entry], found: Mapping[str, Sequence[Result]], setting: Setting, is_final: bool
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the table of results, the best first.

    Args:
        entries: What was compared.
        found: The results.
        setting: What they share.
        is_final: Whether they are of test episodes, beside which published results stand.
    """
    measure = MEASURES[load_task(setting.task).info.form]
    scale, sign = (100 if measure == "accuracy" else 1), (1 if measure == "loss" else -1)
    rows: list[tuple[str, ...]] = []
    for entry in sorted(entries, key=lambda e: sign * mean([r.score for r in found[e.key]])):
        results = found[entry.key]
        interval = math.sqrt(sum(r.interval**2 for r in results)) / len(results)
        rows.append(
            (
                entry.name,
                f"{scale * mean([r.score for r in results]):.2f} ± {scale * interval:.2f}",
                f"{scale * deviation([r.score for r in results]):.2f}",
                f"{scale * mean([r.before for r in results]):.2f}",
                published_few_shot(entry.stage, setting.task) if is_final else "",
                _spell_seconds([r.seconds for r in results]),
                _spell_peak([r.mebibytes for r in results]),
                "/".join(sorted({r.engine for r in results})),
            )
        )
    score = ("test " if is_final else "validation ") + measure
    columns = ("method", score, "over seeds", "before", "published", "outer step", "memory", "engine")
    return columns, rows


def describe(setting: Setting, entries: Sequence[Entry], seeds: int) -> str:
    """Say what the numbers are."""
    info = load_task(setting.task).info
    shapes = sorted({e.stage.episodes for e in entries}, key=repr)
    is_policy = MEASURES[info.form] == "return"
    shots = ", ".join(
        f"{shape.shots} rollouts" if is_policy else f"{shape.ways}-way {shape.shots}-shot" for shape in shapes
    )
    policies = ", ".join(sorted({e.stage.normalisation for e in entries}))
    return (
        f"{info.name}, {shots}, {seeds} seeds: mean after adaptation ± half of the "
        f"95 % confidence interval over episodes, and standard deviation over seeds; batch statistics: "
        f"{policies}"
    )


def write_results(setting: Setting, about: str, rows: Any, command: str) -> None:
    """Write `results.md` and `results.html`."""
    from learnforge.report import Section
    from learnforge_plugins.reports.write import page_html, page_markdown

    columns, cells = rows
    section = Section("Meta-learners", f"{about}. Again: {command}", columns, cells)
    title = f"Meta-learning on {load_task(setting.task).info.name}"
    write_text(setting.folder / "results.html", page_html(title, "learnforge bench meta-learners", [section]))
    write_text(setting.folder / "results.md", page_markdown(title, [section]))


def _as_recipe(table: Mapping[str, Any]) -> dict[str, Any]:
    stage = {key: value for key, value in table.items() if key != "task"}
    return {"run": {"name": "bench"}, "task": table["task"], "stage": [stage]}


def _inputs(stage: MetaStage, setting: Setting) -> dict[str, Artifact]:
    recipe: Any = Recipe(None, setting.task, (stage,), {})  # type: ignore[arg-type]
    return resolve_inputs(stage, 0, recipe, load_task(setting.task), {})


def _source_print(stage: MetaStage, setting: Setting) -> Any:
    """Return what the network is: a model's options and code, or an artifact's content."""
    if isinstance(stage.source, Model):
        return model_print(stage.source)
    return _inputs(stage, setting)["source"].content


def _validating(task: Task) -> Task:
    """Return a task whose validation split stands in the place of the test split."""
    episodes = task.episodes
    if episodes is None:
        return evolve(task, test=task.validation)
    own = {"test": "validation"}
    return evolve(task, episodes=lambda name, *rest: episodes(own.get(name, name), *rest))


def _of_a_step(times: Sequence[tuple[int, float]]) -> float | None:
    """Return the seconds of an outer step, between the first and the last report of meta-training."""
    if len(times) < 2:
        return None
    (first, start), (last, end) = times[0], times[-1]
    return (end - start) / (last - first)


def _spell_peak(mebibytes: Sequence[float | None]) -> str:
    known = [each for each in mebibytes if each is not None]
    return f"{max(known):.0f} MiB" if known else ""


def _spell_seconds(seconds: Sequence[float | None]) -> str:
    known = [each for each in seconds if each is not None]
    return f"{1000 * mean(known):.0f} ms" if known else ""
