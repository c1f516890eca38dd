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
from typing import Any

import torch
from attrs import asdict, frozen

from learnforge.context import Context, Progress
from learnforge.errors import Problem, RecipeError, StageError, nearest
from learnforge.files import fingerprint, write_text
from learnforge.kinds.searcher import Searcher
from learnforge.kinds.table import Published, Table
from learnforge.options.structure import structure
from learnforge.options.tables import read_table
from learnforge.plugins.identity import core_version, identify, spell
from learnforge.plugins.registry import Plugins
from learnforge_kit.search.trials import NOTE
from learnforge_kit.search.view import SpaceView
from learnforge_plugins.commands.bench.jobs import Ledger, deviation, mean, run_jobs
from learnforge_plugins.stages.search.admission import Admission
from learnforge_plugins.stages.search.driver import Driver
from learnforge_plugins.stages.search.record import Goal, Ranking, Record
from learnforge_plugins.stages.search.storage import open_study
from learnforge_plugins.stages.search.table import VALIDATION, TableEvaluator

CHUNK = 4
"""Seeds that a worker searches with before it reports."""


MOST_TRIALS = 100_000


@frozen
class Entry:
    """One searcher that is compared.

    Args:
        name: As the table of results shows it.
        method: The searcher.
        warm_start: What its searches begin with.
        key: Equal for equal searches: options and code.
    """

    name: str
    method: Searcher
    warm_start: Ranking | None = None
    key: str = ""


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
        known = [step for step in self.steps if (step[1] if is_paid else step[0]) <= budget]
        return (known[-1][2], known[-1][3]) if known else None


@frozen
class Line:
    """What searches of one entry came to.

    Args:
        name: Name of the entry.
        budget: Seconds.
        seeds: Number of searches.
        regret: Mean distance of the chosen design's validation accuracy from the best in the table.
        regret_deviation: Its standard deviation over seeds.
        test: Mean test accuracy; None where it was not asked for.
        test_deviation: Its standard deviation.
        paid: Mean test accuracy, or regret where tests were not asked for, if repetitions had been paid.
        evaluations: Mean number of designs evaluated.
        duplicates: Mean number of repetitions.
    """

    name: str
    budget: float
    seeds: int
    regret: float
    regret_deviation: float
    test: float | None
    test_deviation: float | None
    paid: float
    evaluations: float
    duplicates: float


def parse_entries(texts: Sequence[str], plugins: Plugins) -> list[Entry]:
    """Read what is to be compared: a searcher's name, or a table as a recipe would have it.

    `{ use = "predictor", scores = ["naswot"], warm_start = { score = "naswot", candidates = 500, keep = 10
    } }`

    Raises:
        RecipeError: Something is wrong; all of it is listed.
    """
    problems: list[Problem] = []
    entries = []
    for text in texts:
        try:
            table = read_table(text)
        except RecipeError as error:
            problems += error.problems
            continue
        start = table.pop("warm_start", None)
        ranking = structure(Ranking, start, f"{text}.warm_start", problems) if start is not None else None
        method = plugins.resolve("searcher", table, text, problems)
        if method is not None:
            key = fingerprint([spell(method), asdict(identify(method)), start])[:16]
            entries.append(Entry(_name(table, ranking), method, ranking, key))
    if problems:
        raise RecipeError(problems, "searchers")
    return entries


def _name(table: Mapping[str, Any], ranking: Ranking | None) -> str:
    options = [f"{key}={value}" for key, value in table.items() if key != "use"]
    start = [f"warm start by {ranking.score}"] if ranking else []
    return ", ".join([table["use"], *options, *start])


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
    evaluator = TableEvaluator(table)
    meters = {name: _meter(table, name) for name in table.scores()}
    sampler = entry.method.sampler(seed, ["maximize"], SpaceView(evaluator.space, meters))
    goal = Goal(MOST_TRIALS, (VALIDATION,), {}, warm_start=entry.warm_start, seconds=budget)
    context = Context("bench", seed, torch.device("cpu"), plugins)
    with open_study(None, "bench", goal.directions, sampler) as study:
        Driver(Admission(goal, evaluator, context), study, plugins.load("executor", "serial")(), 1).run()
        trials = [
            (Record(**trial.user_attrs[NOTE]), trial.params)
            for trial in study.get_trials(deepcopy=False)
            if NOTE in trial.user_attrs  # a warm start may be longer than the budget
        ]
    return _reckon(entry, table, seed, budget, trials, is_final)


def _meter(table: Table, name: str) -> Any:
    return lambda design: table.predict_costs(design)[name]


def _reckon(
    entry: Entry,
    table: Table,
    seed: int,
    budget: float,
    trials: Sequence[tuple[Record, Mapping[str, Any]]],
    is_final: bool,
) -> Search:
    """Set the simulated clock beside the trials, in their order."""
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
    return Search(entry.key, seed, budget, tuple(steps), tuple(evaluated), tuple(repeated))


def compare(
    entries: Sequence[Entry],
    table: Table,
    seeds: int,
    budget: float,
    plugins: Plugins,
    progress: Progress,
    workers: int = 1,
    is_final: bool = False,
    folder: Path | None = None,
) -> dict[str, list[Search]]:
    """Search with every entry and seed, in parallel; go on with what a folder already holds.

    Args:
        entries: What is compared.
        table: Where.
        seeds: Searches of each entry, with the seeds 0, 1, ….
        budget: Seconds of training in each.
        plugins: The plugins in use.
        progress: Shows how far it is.
        workers: Processes.
        is_final: Look up test accuracies.
        folder: Keeps every search in `searches.jsonl`; None keeps nothing.

    Returns:
        {key of an entry: its searches, by seed}.
    """
    file = folder / "searches.jsonl" if folder is not None else None
    unknown = [
        e.warm_start.score for e in entries if e.warm_start and e.warm_start.score not in table.scores()
    ]
    if unknown:
        raise RecipeError(
            [Problem("warm_start.score", f"unknown; {nearest(unknown[0], table.scores())}")], "bench"
        )
    code = [asdict(identify(part)) for part in (table, table.space())]
    header = {"table": spell(table), "code": code, "final": is_final, "core": core_version()}
    ledger = Ledger(file, header)
    known = map(_as_search, ledger.read())
    found = {(s.entry, s.seed): s for s in known if s.budget == budget}
    jobs = [
        (entry, table, chunk, budget, is_final)
        for entry in entries
        for chunk in _chunks([seed for seed in range(seeds) if (entry.key, seed) not in found])
    ]
    total = len(entries) * seeds
    kept = sum((entry.key, seed) in found for entry in entries for seed in range(seeds))
    with progress.track("searches", total, kept) as tracker:
        in_turn = (_run_chunk(plugins, *job) for job in jobs)
        for searches in run_jobs(_run_chunk, jobs, plugins, workers) if workers > 1 else in_turn:
            for search in searches:
                found[search.entry, search.seed] = search
                tracker.advance()
            ledger.append([asdict(search) for search in searches])
    return {entry.key: [found[entry.key, seed] for seed in range(seeds)] for entry in entries}


def _chunks(seeds: list[int]) -> list[list[int]]:
    return [seeds[i : i + CHUNK] for i in range(0, len(seeds), CHUNK)]


def _run_chunk(
    plugins: Plugins, entry: Entry, table: Table, seeds: Sequence[int], budget: float, is_final: bool
) -> list[Search]:
    return [run_search(entry, table, seed, budget, is_final, plugins) for seed in seeds]


def _as_search(data: Mapping[str, Any]) -> Search:
    lists = {name: tuple(data[name]) for name in ("evaluated", "repeated")}
    return Search(**{**data, **lists, "steps": tuple(tuple(step) for step in data["steps"])})


def summarise(
    entries: Sequence[Entry], found: Mapping[str, Sequence[Search]], table: Table, budgets: Sequence[float]
) -> list[Line]:
    """Reduce searches to a line for each budget and entry, budgets in order, best entries first."""
    lines = [_line(entry, found[entry.key], table, budget) for budget in budgets for entry in entries]
    return sorted(lines, key=lambda line: (line.budget, line.regret))


def _line(entry: Entry, searches: Sequence[Search], table: Table, budget: float) -> Line:
    chosen = [c for search in searches if (c := search.chosen(budget)) is not None]
    paid = [c for search in searches if (c := search.chosen(budget, is_paid=True)) is not None]
    regrets = [table.best() - validation for validation, _ in chosen]
    tests = [test for _, test in chosen if test is not None]
    paid_tests = [test for _, test in paid if test is not None]
    paid_regrets = [table.best() - validation for validation, _ in paid]
    return Line(
        entry.name,
        budget,
        len(chosen),
        mean(regrets),
        deviation(regrets),
        mean(tests) if tests else None,
        deviation(tests) if tests else None,
        mean(paid_tests or paid_regrets),
        mean([float(sum(t <= budget for t in search.evaluated)) for search in searches]),
        mean([float(sum(t <= budget for t in search.repeated)) for search in searches]),
    )


def write_results(
    folder: Path,
    entries: Sequence[Entry],
    found: Mapping[str, Sequence[Search]],
    lines: Sequence[Line],
    table: Table,
    command: str,
) -> None:
    """Write `results.md` and `results.html`: the table, the published figures, and regret over time."""
    from learnforge.report import Section
    from learnforge_plugins.reports.write import page_html, page_markdown

    is_final = any(line.test is not None for line in lines)
    columns, rows = as_rows(lines, table.published() if is_final else ())
    words = (
        f"Designs are chosen by validation accuracy; seconds of training are paid, {lines[0].seeds} seeds. "
        f"Mean ± standard deviation over seeds. Again: {command}"
    )
    picture = regret_figure(entries, found, table)
    section = Section("Searchers", words, columns, rows, [picture])
    title = f"Searchers on {identify(table).name}"
    write_text(folder / "results.html", page_html(title, "learnforge bench searchers", [section]))
    write_text(folder / "results.md", page_markdown(title, [section]))


def as_rows(
    lines: Sequence[Line], published: Sequence[Published]
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return headings and rows of the table of results."""
    has_tests = any(line.test is not None for line in lines)
    paid = "test, repetitions paid" if has_tests else "regret, repetitions paid"
    tests = ("test",) if has_tests else ()
    columns = ("searcher", "seconds", "validation regret", *tests, paid, "evaluations", "duplicates")
    rows: list[tuple[str, ...]] = [
        (
            line.name,
            f"{line.budget:,.0f}",
            f"{line.regret:.3f} ± {line.regret_deviation:.3f}",
            *([f"{line.test:.2f} ± {line.test_deviation:.2f}"] if line.test is not None else []),
            f"{line.paid:.2f}" if has_tests else f"{line.paid:.3f}",
            f"{line.evaluations:.0f}",
            f"{line.duplicates:.0f}",
        )
        for line in lines
    ]
    rows += [
        (f"{p.method} ({p.source})", "", "", f"{p.mean:.2f} ± {p.deviation:.2f}", "", "", "")
        for p in published
    ]
    return columns, rows


def regret_figure(entries: Sequence[Entry], found: Mapping[str, Sequence[Search]], table: Table) -> Any:
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
