"""Compares searchers on a tabular benchmark, on a simulated clock.

Protocol: a search chooses by validation accuracy, pays the seconds of each training, and is judged by the
test accuracy of the design it holds for best when its budget is spent. A training that the budget does not
see the end of does not count. A design that was seen before costs nothing, since the driver remembers it;
beside that stands what would have come out if each repetition had been paid, as it is in protocols that
remember nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import asdict, evolve, frozen

from learnforge.context import Context
from learnforge.errors import Problem, RecipeError, StageError, nearest
from learnforge.kinds.table import Published, Table
from learnforge.plugins.identity import core_version, identify, spell
from learnforge.plugins.registry import Plugins
from learnforge_kit.search.trials import NOTE
from learnforge_kit.search.view import SpaceView
from learnforge_plugins.commands.bench.comparison import Comparison, Job, Results, count_seeds
from learnforge_plugins.commands.bench.entries import Entry, Lineup, read_entries
from learnforge_plugins.commands.bench.report import Cells, Report
from learnforge_plugins.commands.bench.summary import mean, spell_spread
from learnforge_plugins.stages.search.admission import Admission
from learnforge_plugins.stages.search.driver import Driver
from learnforge_plugins.stages.search.record import Goal, Ranking, Record
from learnforge_plugins.stages.search.storage import open_study
from learnforge_plugins.stages.search.table import VALIDATION, TableObjective

MOST_TRIALS = 100_000


@frozen
class Search:
    """One search over the table.

    Args:
        entry: Key of its entry.
        seed: Its seed.
        budget: Seconds it was given.
        steps: [(seconds spent, seconds spent if repetitions were paid, validation accuracy, test
            accuracy)] for each design that was better than all before it; test accuracies only where they
            were asked for.
        evaluated: [seconds spent] at the end of each evaluation.
        repeated: [seconds spent] at each repetition.
    """

    entry: str
    seed: int
    budget: float
    steps: tuple[tuple[float, float, float, float | None], ...]
    evaluated: tuple[float, ...]
    repeated: tuple[float, ...]

    def chosen(self, budget: float, is_paid: bool = False) -> tuple[float, float | None] | None:
        """Return validation and test accuracy of the best design when a budget is spent; None before
        the first.
        """
        steps = [step for step in self.steps if (step[1] if is_paid else step[0]) <= budget]
        return (steps[-1][2], steps[-1][3]) if steps else None


@frozen(eq=False, kw_only=True)
class Searchers(Comparison):
    """What all searches share.

    Args:
        table: The benchmark.
        budgets: Seconds of training to judge at, in order; each search is given the last.
        folder: Keeps every search; None keeps nothing.
        device: Where methods compute, as torch spells it.
    """

    table: Table
    budgets: Sequence[float]
    folder: Path | None = None
    device: str = "cpu"

    command: ClassVar[str] = "searchers"
    ledger: ClassVar[str] = "searches.jsonl"
    unit: ClassVar[str] = "searches"
    heading: ClassVar[str] = "Searchers"
    subject: ClassVar[str] = "searcher"

    @property
    def conditions(self) -> dict[str, Any]:
        code = [asdict(identify(part)) for part in (self.table, self.table.space())]
        return {"table": spell(self.table), "code": code, "core": core_version()}

    def load_result(self, data: Mapping[str, Any]) -> Search | None:
        lists = {name: tuple(data[name]) for name in ("evaluated", "repeated")}
        search = Search(**{**data, **lists, "steps": tuple(tuple(step) for step in data["steps"])})
        return search if search.budget == self.budgets[-1] else None

    def run(self, plugins: Plugins, job: Job) -> Search:
        """Search once."""
        return run_search(job.entry, self.table, job.seed, self.budgets[-1], job.is_final, plugins)

    def report(self, entries: Sequence[Entry], found: Results, is_final: bool, plugins: Plugins) -> Report:
        """Make the table, with the published figures, and a picture of regret over time."""
        published = self.table.published() if is_final else ()
        table, figure = as_rows(entries, found, self, published), regret_figure(entries, found, self.table)
        name, seeds = identify(self.table).name, count_seeds(found)
        title, label = f"Searchers on {name}", f"{name}, {seeds} seeds"
        words = (
            f"Designs are chosen by validation accuracy; seconds of training are paid, {seeds} seeds. Mean ± "
            "standard deviation over seeds."
        )
        numbers = "mean ± standard deviation over seeds"
        note = f"{numbers}; duplicates are designs that came up again, which cost nothing"
        return Report(title, words, table, label=label, note=note, figures=[figure])


def parse_entries(texts: Sequence[str], table: Table, plugins: Plugins) -> Lineup:
    """Read what is to be compared: a searcher's name, or a table as a recipe would have it.

    `{ use = "predictor", scores = ["naswot"], warm_start = { score = "naswot", candidates = 500, keep = 10
    } }`

    Returns:
        The entries, whose `extra` is the warm start, and {name: reason} of installed searchers that were left
        out; only where `texts` are empty, which means all that are installed.

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    entries, left_out = read_entries("searcher", texts, plugins, {"warm_start": Ranking})
    scores = [entry.extra.score for entry in entries if entry.extra]
    unknown = [score for score in scores if score not in table.scores()]
    if unknown:
        words = f"unknown; {nearest(unknown[0], table.scores())}"
        raise RecipeError([Problem("warm_start.score", words)], "bench")
    starts = [f", warm start by {entry.extra.score}" if entry.extra else "" for entry in entries]
    named = [evolve(entry, name=entry.name + start) for entry, start in zip(entries, starts, strict=True)]
    return named, left_out


def run_search(
    entry: Entry, table: Table, seed: int, budget: float, is_final: bool, plugins: Plugins
) -> Search:
    """Search once.

    Args:
        entry: Searcher and warm start.
        table: Where.
        seed: The seed.
        budget: Seconds of training.
        is_final: Look up the test accuracy of what was chosen.
        plugins: Loads the executor.
    """
    objective = TableObjective(table)
    meters = {name: _meter(table, name) for name in table.scores()}
    sampler = entry.method.sampler(seed, ["maximize"], SpaceView(objective.space, meters))
    goal = Goal(MOST_TRIALS, (VALIDATION,), {}, warm_start=entry.extra, seconds=budget)
    context = Context("bench", seed, torch.device("cpu"), plugins)
    with open_study(None, "bench", goal.directions, sampler) as study:
        Driver(Admission(goal, objective, context), study, plugins.load("executor", "serial")(), 1).run()
        trials = [
            (Record(**trial.user_attrs[NOTE]), trial.params)
            for trial in study.get_trials(deepcopy=False)
            if NOTE in trial.user_attrs  # a warm start may be longer than the budget
        ]
    return Search(entry.key, seed, budget, *_run_clock(trials, table, budget, is_final))


def _meter(table: Table, name: str) -> Any:
    return lambda design: table.predict_costs(design)[name]


def _run_clock(
    trials: Sequence[tuple[Record, Mapping[str, Any]]], table: Table, budget: float, is_final: bool
) -> tuple[Any, Any, Any]:
    """Set the simulated clock beside the trials, in their order, and return a search's steps, evaluations
    and repetitions.
    """
    spent = paid = 0.0
    best = float("-inf")
    costs: dict[str, float] = {}
    steps, evaluated, repeated = [], [], []
    for record, choices in trials:
        if record.state == "repeat":
            paid += costs[record.key]
            repeated.append(spent)
            continue
        if record.state == "failed":
            raise StageError(f"{identify(table)} fails for {record.design}: {record.reason}")
        costs[record.key] = record.seconds
        spent, paid = spent + record.seconds, paid + record.seconds
        if spent > budget:
            break
        evaluated.append(spent)
        if record.metrics[VALIDATION] > best:
            best = record.metrics[VALIDATION]
            steps.append((spent, paid, best, table.test(record.design, choices) if is_final else None))
    return tuple(steps), tuple(evaluated), tuple(repeated)


def as_rows(
    entries: Sequence[Entry], found: Results, comparison: Searchers, published: Sequence[Published] = ()
) -> Cells:
    """Return headings and rows of the table of results: a row for each budget and entry, budgets in order,
    best entries first.

    Args:
        entries: What was compared.
        found: The searches.
        comparison: What they share.
        published: Figures to stand below.
    """
    table, rows, has_tests = comparison.table, [], False
    for budget in comparison.budgets:
        regrets = {entry.key: mean(judge(found[entry.key], table, budget)[0]) for entry in entries}
        for entry in sorted(entries, key=lambda entry: regrets[entry.key]):
            searches = found[entry.key]
            values, tests = judge(searches, table, budget)
            paid, paid_tests = judge(searches, table, budget, is_paid=True)
            has_tests = has_tests or bool(tests)
            counts = ([s.evaluated for s in searches], [s.repeated for s in searches])
            rows.append(
                (
                    entry.name,
                    f"{budget:,.0f}",
                    spell_spread(values, 1, 3),
                    *([spell_spread(tests, 1)] if tests else []),
                    f"{mean(paid_tests):.2f}" if paid_tests else f"{mean(paid):.3f}",
                    *(f"{mean([sum(t <= budget for t in times) for times in each]):.0f}" for each in counts),
                )
            )
    rows += [
        (f"{p.method} ({p.source})", "", "", f"{p.mean:.2f} ± {p.deviation:.2f}", "", "", "")
        for p in published
    ]
    judged = ("test", "test, repetitions paid") if has_tests else ("regret, repetitions paid",)
    return ("searcher", "seconds", "validation regret", *judged, "evaluations", "duplicates"), rows


def judge(
    searches: Sequence[Search], table: Table, budget: float, is_paid: bool = False
) -> tuple[list[float], list[float]]:
    """Return what searches chose until a budget was spent.

    Args:
        searches: Searches of an entry.
        table: Where.
        budget: Seconds.
        is_paid: Whether repetitions are paid.

    Returns:
        Distances from the best validation accuracy in the table, and test accuracies, where they were asked
        for, of those that chose something.
    """
    chosen = [found for search in searches if (found := search.chosen(budget, is_paid)) is not None]
    tests = [test for _, test in chosen if test is not None]
    return [table.best() - validation for validation, _ in chosen], tests


def regret_figure(entries: Sequence[Entry], found: Results, table: Table) -> Any:
    """Draw the mean validation regret of each entry over the simulated time."""
    from learnforge_plugins.reports.figures import lines_figure

    budget = max(search.budget for searches in found.values() for search in searches)
    times = [budget * (i + 1) / 60 for i in range(60)]
    curves = {}
    for entry in entries:
        means = []
        for time in times:
            chosen = [c[0] for search in found[entry.key] if (c := search.chosen(time)) is not None]
            means.append(table.best() - mean(chosen) if len(chosen) == len(found[entry.key]) else None)
        curves[entry.name] = means
    return lines_figure(
        "Validation regret over time", "seconds of training", "regret", times, curves, log=True
    )
