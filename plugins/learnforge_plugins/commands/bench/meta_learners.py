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
from typing import Any, ClassVar

from attrs import evolve, frozen

from learnforge.check import Tasks, check_recipe
from learnforge.context import PeakMemory
from learnforge.errors import Problem, RecipeError
from learnforge.files import fingerprint
from learnforge.plugins.registry import Plugins
from learnforge_kit.description import read_table
from learnforge_plugins.commands.bench import training
from learnforge_plugins.commands.bench.comparison import Job, Results, count_seeds
from learnforge_plugins.commands.bench.entries import Entry, Lineup, name_with_options
from learnforge_plugins.commands.bench.published import published_few_shot
from learnforge_plugins.commands.bench.report import Cells, Report
from learnforge_plugins.commands.bench.summary import deviation, mean
from learnforge_plugins.stages.meta.stage import MEASURES


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


@frozen(eq=False, kw_only=True)
class MetaLearners(training.StageComparison):
    """What all entries share.

    Args:
        table: The stage's table, for entries to change.
    """

    table: Mapping[str, Any]

    command: ClassVar[str] = "meta-learners"
    ledger: ClassVar[str] = "meta-learners.jsonl"
    unit: ClassVar[str] = "networks"
    heading: ClassVar[str] = "Meta-learners"
    subject: ClassVar[str] = "method"
    result: ClassVar[type] = Result
    is_each_alone: ClassVar[bool] = True  # its memory is measured

    @property
    def conditions(self) -> dict[str, Any]:
        return self.environment  # settings are in the entries' keys

    def run(self, plugins: Plugins, job: Job) -> Result:
        """Meta-train and judge one network."""
        task = training.judged_task(self.load_task(), job.is_final)
        stage = evolve(job.entry.extra, validation_episodes=0)
        if not job.is_final:  # the validation split may have the classes that are trained on
            stage = evolve(stage, allow_seen=True)
        times: list[tuple[int, float]] = []

        def note(event: str, metrics: Mapping[str, Any] | None = None, **data: Any) -> None:
            if event == "epoch_finished" and metrics is not None:
                times.append((int(metrics["epoch"]), time.perf_counter()))

        with self.job_context(job, plugins, emit=note) as context:
            memory = PeakMemory(context.device)
            m = stage.run(task, evolve(self, stage=stage).inputs, context).metrics
        test = m["test"]
        scores = (test["after"], test["after_interval"], test["before"])
        costs = (_seconds_of_a_step(times), memory.mebibytes())
        return Result(job.entry.key, job.seed, *scores, *costs, m["engine"])

    def report(self, entries: Sequence[Entry], found: Results, is_final: bool, plugins: Plugins) -> Report:
        """Make the table."""
        note, table = self._describe(entries, count_seeds(found)), as_rows(entries, found, self, is_final)
        title = f"Meta-learning on {self.load_task().info.name}"
        return Report(title, f"{note}.", table, label="meta-learners", note=note)

    def _describe(self, entries: Sequence[Entry], seeds: int) -> str:
        """Say what the numbers are."""
        info = self.load_task().info
        shapes = sorted({entry.extra.episodes for entry in entries}, key=repr)
        is_policy = MEASURES[info.form] == "return"
        shots = ", ".join(
            f"{shape.shots} rollouts" if is_policy else f"{shape.ways}-way {shape.shots}-shot"
            for shape in shapes
        )
        policies = ", ".join(sorted({entry.extra.normalisation for entry in entries}))
        return (
            f"{info.name}, {shots}, {seeds} seeds: mean after adaptation ± half of the 95 % confidence "
            f"interval over episodes, and standard deviation over seeds; batch statistics: {policies}"
        )


def read_comparison(
    recipe: Mapping[str, Any], changes: Mapping[str, Any], folder: Path, plugins: Plugins
) -> MetaLearners:
    """Read task and settings out of a recipe's first meta stage, with changes.

    Args:
        recipe: A recipe's data; may be empty where `changes` say everything.
        changes: Keys of the stage, and `task`, that replace the recipe's.
        folder: Keeps results and what is in training.
        plugins: The plugins in use.

    Raises:
        RecipeError: Something is wrong or missing; all of it is listed.
    """
    table = training.stage_table("meta", recipe, changes, {"from": "model"}, plugins)
    training.require(table, ["task", "from"], "give `--{}`, or a `--recipe`")
    table = {key: value for key, value in table.items() if key not in ("use", "options")}
    _, stage, task = training.parse_stage({**table, "use": "maml"}, plugins)
    device = training.read_device(recipe)
    return MetaLearners(stage=stage, task=task, folder=folder, device=device, table=table)


def parse_entries(texts: Sequence[str], comparison: MetaLearners, plugins: Plugins) -> Lineup:
    """Read what is compared: meta-learners by name, or tables as in a recipe, in which `stage = { … }`
    changes settings of the stage.

    Returns:
        The entries, whose `extra` is the stage that trains them, and {name: reason} of installed methods that
        cannot learn the task; only where `texts` are empty, which means all that are installed.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    problems: list[Problem] = []
    left_out: dict[str, str] = {}
    entries = []
    for text in texts or plugins.names("meta-learner"):
        try:
            entry = _read_entry(text, comparison, plugins)
        except RecipeError as error:
            if not texts:
                left_out[text] = "; ".join(str(problem) for problem in error.problems)
                continue
            problems += [Problem(f"{text}: {p.path}", p.message) for p in error.problems]
            continue
        problems += training.find_ranges(entry.extra, f"{text}: ")
        entries.append(entry)
    if not entries:  # what is wrong with all of them is no fault of theirs
        problems += [Problem(name, reason) for name, reason in left_out.items()]
    training.refuse(problems, "meta-learners")
    return entries, left_out


def _read_entry(text: str, comparison: MetaLearners, plugins: Plugins) -> Entry:
    options = dict(read_table(text))
    changes, use = options.pop("stage", {}), options.pop("use")
    table = {**comparison.table, **changes, "use": use, "options": options}
    parsed, stage, _ = training.parse_stage(table, plugins)
    check_recipe(parsed, plugins, Tasks())
    origin = evolve(comparison, stage=stage).input_print("source")
    key = fingerprint([stage.fingerprint_data(), origin])[:16]
    return Entry(name_with_options({"use": use, **options, **changes}), stage.method, key, stage)


def as_rows(entries: Sequence[Entry], found: Results, comparison: MetaLearners, is_final: bool) -> Cells:
    """Return headings and rows of the table of results, the best first.

    Args:
        entries: What was compared.
        found: The results.
        comparison: What they share.
        is_final: Whether they are of test episodes, beside which published results stand.
    """
    measure = MEASURES[comparison.load_task().info.form]
    scale, sign = (100 if measure == "accuracy" else 1), (1 if measure == "loss" else -1)
    scores = {entry.key: [r.score for r in found[entry.key]] for entry in entries}
    rows: list[tuple[str, ...]] = []
    for entry in sorted(entries, key=lambda e: sign * mean(scores[e.key])):
        results = found[entry.key]
        interval = math.sqrt(sum(r.interval**2 for r in results)) / len(results)
        seconds = [r.seconds for r in results if r.seconds is not None]
        memory = [r.mebibytes for r in results if r.mebibytes is not None]
        rows.append(
            (
                entry.name,
                f"{scale * mean(scores[entry.key]):.2f} ± {scale * interval:.2f}",
                f"{scale * deviation(scores[entry.key]):.2f}",
                f"{scale * mean([r.before for r in results]):.2f}",
                published_few_shot(entry.extra, comparison.task) if is_final else "",
                f"{1000 * mean(seconds):.0f} ms" if seconds else "",
                f"{max(memory):.0f} MiB" if memory else "",
                "/".join(sorted({r.engine for r in results})),
            )
        )
    score = ("test " if is_final else "validation ") + measure
    return ("method", score, "over seeds", "before", "published", "outer step", "memory", "engine"), rows


def _seconds_of_a_step(times: Sequence[tuple[int, float]]) -> float | None:
    """Return the seconds of an outer step, between the first and the last report of meta-training."""
    if len(times) < 2:
        return None
    (first, start), (last, end) = times[0], times[-1]
    return (end - start) / (last - first)
