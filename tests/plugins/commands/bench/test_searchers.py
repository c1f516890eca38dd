"""The comparison of searchers: the simulated clock, what is chosen and paid, parallel and resumed runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
from attrs import evolve, frozen
from click.testing import CliRunner

from learnforge import PluginChoice, Plugins, RecipeError, Space, Table, Trained
from learnforge.cli.group import cli
from learnforge.context import Silence
from learnforge.kinds.table import Published
from learnforge_plugins.commands.bench.comparison import compare
from learnforge_plugins.commands.bench.searchers import (
    Search,
    Searchers,
    as_rows,
    judge,
    parse_entries,
    run_search,
)
from learnforge_plugins.commands.bench.summary import deviation, mean
from learnforge_testing.landscapes import Letters

SMALL = '''
"""A table of 81 words; each letter's place in the alphabet is worth a point, a training takes ten seconds."""
from attrs import frozen
from learnforge import Published, Table, Trained, hookimpl
from learnforge_testing.landscapes import Letters

def worth(design):
    return float(sum("abc".index(letter) for letter in design.values()))

@frozen
class Words(Table):
    def space(self):
        return Letters((3, 3, 3, 3))
    def train(self, design, choices):
        return Trained(worth(design), 10.0)
    def test(self, design, choices):
        return 90.0 + worth(design)
    def best(self):
        return 8.0
    def predict_costs(self, design):
        return {"size": 1.0, "oracle": worth(design)}
    def scores(self):
        return ["oracle"]
    def published(self):
        return [Published("by hand", 98.0, 0.0, "here")]

@hookimpl
def learnforge_tables():
    return {"words": Words}
'''


@pytest.fixture
def words(tmp_path: Path) -> Plugins:
    """Plugins with a small table."""
    file = tmp_path / "words_table.py"
    file.write_text(SMALL)
    return Plugins(PluginChoice(files=(file,)))


def test_the_clock_by_hand() -> None:
    """What is chosen at a budget is the best that ended within it; repetitions count where they are paid."""
    steps = ((10.0, 10.0, 1.0, 91.0), (30.0, 50.0, 4.0, 94.0))
    search = Search("key", 0, 100.0, steps, (10.0, 20.0, 30.0), (20.0, 20.0))
    assert search.chosen(9.0) is None
    assert search.chosen(29.0) == (1.0, 91.0)
    assert search.chosen(30.0) == (4.0, 94.0)
    assert search.chosen(30.0, is_paid=True) == (1.0, 91.0)
    assert search.chosen(50.0, is_paid=True) == (4.0, 94.0)


def test_a_search_ends_with_its_budget(words: Plugins) -> None:
    """A budget of 95 seconds sees the end of nine trainings of ten seconds, and not of a tenth."""
    table = words.load("table", "words")()
    (entry,), _ = parse_entries(["random"], table, words)
    search = run_search(entry, table, 0, 95.0, False, words)
    assert search.evaluated == tuple(10.0 * (i + 1) for i in range(9))
    assert all(test is None for *_, test in search.steps)
    values = [validation for _, _, validation, _ in search.steps]
    assert values == sorted(set(values))


def test_a_repetition_is_free_and_counted(words: Plugins) -> None:
    """Over a space of 81 words random search repeats itself; paid for, the same step comes later."""
    table = words.load("table", "words")()
    (entry,), _ = parse_entries(["random"], table, words)
    search = run_search(entry, table, 1, 800.0, True, words)
    assert len(search.evaluated) == 80
    assert len(search.repeated) > 10
    assert search.steps[-1][1] > search.steps[-1][0]
    assert all(test == 90.0 + validation for _, _, validation, test in search.steps)


def test_a_warm_start_finds_the_best_at_once(words: Plugins) -> None:
    """With a score that knows the worth, the first design is the best of the candidates."""
    table = words.load("table", "words")()
    text = '{ use = "random", warm_start = { score = "oracle", candidates = 60, keep = 3 } }'
    (entry,), _ = parse_entries([text], table, words)
    assert entry.name == "random, warm start by oracle"
    search = run_search(entry, table, 0, 100.0, True, words)
    assert len(search.steps) == 1
    assert search.chosen(10.0)[0] >= 7.0  # type: ignore[index]


@pytest.mark.slow
def test_workers_find_the_same(words: Plugins, tmp_path: Path) -> None:
    """Two processes find what one finds, and what is kept in a folder is not searched again."""
    table = words.load("table", "words")()
    entries, _ = parse_entries(["random", '{ use = "evolution", population = 5 }'], table, words)
    options: dict[str, Any] = {"seeds": 6, "plugins": words, "progress": Silence()}
    comparison = Searchers(table=table, budgets=[200.0])
    alone = compare(entries, comparison, **options)
    folder = tmp_path / "kept"
    kept = evolve(comparison, folder=folder)
    assert compare(entries, kept, **options, workers=2) == alone
    lines = (folder / "searches.jsonl").read_text().splitlines()
    assert len(lines) == 12
    (folder / "searches.jsonl").write_text("\n".join(lines[:5]) + "\n" + lines[5][:40])  # a torn line
    assert compare(entries, kept, **options) == alone
    assert compare(entries, kept, **evolve_seeds(options, 3)) == {
        key: searches[:3] for key, searches in alone.items()
    }


def evolve_seeds(options: dict[str, Any], seeds: int) -> dict[str, Any]:
    return {**options, "seeds": seeds}


def test_what_is_kept_under_other_conditions_is_not_used(words: Plugins, tmp_path: Path) -> None:
    """Searches without test accuracies do not serve where these are asked for."""
    table = words.load("table", "words")()
    entries, _ = parse_entries(["random"], table, words)
    comparison = Searchers(table=table, budgets=[50.0], folder=tmp_path)
    options: dict[str, Any] = {"seeds": 2, "plugins": words, "progress": Silence()}
    compare(entries, comparison, **options)
    found = compare(entries, comparison, **options, is_final=True)
    assert all(test is not None for search in found[entries[0].key] for *_, test in search.steps)


def test_lines_by_hand(words: Plugins) -> None:
    """Regret is counted from the best of the table; mean and deviation are over seeds; best entries come
    first.
    """
    table = words.load("table", "words")()
    (random, evolution), _ = parse_entries(["random", "evolution"], table, words)

    def search(entry: Any, seed: int, value: float) -> Search:
        return Search(entry.key, seed, 100.0, ((10.0, 20.0, value, 90.0 + value),), (10.0, 20.0), (15.0,))

    found = {
        random.key: [search(random, 0, 2.0), search(random, 1, 4.0)],
        evolution.key: [search(evolution, 0, 6.0), search(evolution, 1, 6.0)],
    }
    regrets, tests = judge(found[random.key], table, 100.0)
    assert (mean(regrets), mean(tests)) == (5.0, 93.0)
    assert deviation(regrets) == pytest.approx(2.0**0.5)
    published = [Published("by hand", 98.0, 0.5, "here")]
    comparison = Searchers(table=table, budgets=[100.0])
    columns, rows = as_rows([random, evolution], found, comparison, published)
    assert [row[0] for row in rows] == ["evolution", "random", "by hand (here)"]
    assert rows[1] == ("random", "100", "5.000 ± 1.414", "93.00 ± 1.41", "93.00", "2", "1")
    assert rows[2][:4] == ("by hand (here)", "", "", "98.00 ± 0.50")
    assert len(columns) == len(rows[0])


def test_results_are_written(words: Plugins, tmp_path: Path) -> None:
    """A page with the picture of regret over time, and Markdown with the table and the command."""
    table = words.load("table", "words")()
    entries, _ = parse_entries(["random"], table, words)
    comparison = Searchers(table=table, budgets=[60.0])
    found = compare(entries, comparison, 2, words, Silence(), is_final=True)
    report = comparison.report(entries, found, True, words)
    report.write(tmp_path, comparison.heading, comparison.command, "learnforge bench searchers random")
    text = (tmp_path / "results.md").read_text()
    assert "Again: learnforge bench searchers random" in text
    assert "| by hand (here) |" in text
    assert "Validation regret over time" in (tmp_path / "results.html").read_text()


@pytest.mark.parametrize(
    ("text", "words_"),
    [
        ("evolutoin", "did you mean 'evolution'"),
        ("{ use = 1", "must be a table as TOML writes it"),
        ('{ use = "evolution", population = 1 }', "population"),
        ('{ use = "random", warm_start = { score = "x" } }', "warm_start"),
    ],
)
def test_what_cannot_be_compared_is_said(text: str, words_: str, words: Plugins) -> None:
    """Unknown names, text that is no TOML, wrong options: each is reported before anything runs."""
    with pytest.raises(RecipeError, match=words_):
        parse_entries([text], words.load("table", "words")(), words)


def test_the_command_shows_and_keeps(tmp_path: Path) -> None:
    """`learnforge bench searchers` prints the table; without --final no test accuracy is looked up."""
    file = tmp_path / "words_table.py"
    file.write_text(SMALL)
    arguments = [
        "bench",
        "searchers",
        "random",
        "local",
        "--table",
        "words",
        "--seeds",
        "2",
        "--seconds",
        "50",
    ]
    arguments += ["--seconds", "90", "--workers", "1", "--plugin", str(file), "--to", str(tmp_path / "out")]
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert shown.exit_code == 0, shown.output
    assert "validation regret" in shown.output
    assert "by hand" not in shown.output
    kept = [json.loads(line) for line in (tmp_path / "out" / "searches.jsonl").read_text().splitlines()]
    assert {step[3] for search in kept for step in search["steps"]} == {None}
    final = CliRunner().invoke(cli, [*arguments, "--final"], catch_exceptions=False)
    assert "by hand (here)" in final.output


def test_a_table_needs_no_scores(words: Plugins) -> None:
    """A table that foresees nothing is searched as well."""

    @frozen
    class Bare(Table):
        budget: ClassVar[float] = 30.0

        def space(self) -> Space:
            return Letters((3, 3))

        def train(self, design: Any, choices: Any) -> Trained:
            return Trained(float(choices == design), 10.0)

        def test(self, design: Any, choices: Any) -> float:
            return 0.0

        def best(self) -> float:
            return 1.0

    (entry,), _ = parse_entries(["random"], Bare(), words)
    search = run_search(evolve(entry), Bare(), 0, 30.0, False, words)
    assert search.chosen(30.0) == (1.0, None)  # choices reach the table as they were made
