"""The comparison of meta-learners: the same episodes for all, settings of their own, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from click.testing import CliRunner

from learnforge import EpisodeShape, Plugins, RecipeError
from learnforge.cli.group import cli
from learnforge.context import Silence
from learnforge_plugins.commands.bench.comparison import Job, compare
from learnforge_plugins.commands.bench.meta_learners import Result, as_rows, parse_entries, read_comparison
from learnforge_plugins.commands.bench.published import published_few_shot
from learnforge_plugins.stages.meta.stage import MetaStage

CHANGES: dict[str, Any] = {
    "task": {
        "use": "digits",
        "classes": [0, 1, 2],
        "validation_classes": [3, 5, 6],
        "test_classes": [4, 7, 8],
    },
    "from": {"use": "conv4", "width": 4, "blocks": 2},
    "episodes": {"ways": 3, "shots": 1, "queries": 2},
    "iterations": 4,
    "tasks": 2,
    "test_episodes": 400,
    "engine": "chain",
}
TEXTS = ["maml", '{ use = "protonet", stage = { iterations = 6, train_queries = 1 } }']


@pytest.mark.slow
def test_results_are_kept_and_gone_on_with(plugins: Plugins, tmp_path: Path) -> None:
    """Every entry has a result for each seed, judged on the validation split; another call trains what is
    new.
    """
    comparison = read_comparison({}, CHANGES, tmp_path, plugins)
    entries, _ = parse_entries(TEXTS, comparison, plugins)
    assert [e.name for e in entries] == ["maml", "protonet, iterations=6, train_queries=1"]
    assert [e.extra.iterations for e in entries] == [4, 6]
    first = compare(entries, comparison, 1, plugins, Silence(), workers=2)
    file = tmp_path / "meta-learners.jsonl"
    kept = file.read_text().splitlines()
    assert len(kept) == 2
    both = compare(entries, comparison, 2, plugins, Silence(), workers=2)
    assert file.read_text().splitlines()[:2] == kept
    assert [both[e.key][0] for e in entries] == [first[e.key][0] for e in entries]
    for entry in entries:
        assert both[entry.key][0].score != both[entry.key][1].score  # seeds are others
        assert all(0 < r.score < 1 and 0 < r.interval < 0.1 for r in both[entry.key])
        assert all(r.seconds > 0 and 50 < r.mebibytes < 4000 and r.engine == "chain" for r in both[entry.key])
    assert list((tmp_path / "training").iterdir()) == []


def test_final_results_are_of_the_test_split(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `is_final` the test split is judged, otherwise the validation split, as many episodes of it."""
    comparison = read_comparison({}, CHANGES, tmp_path, plugins)
    (entry, _), _ = parse_entries(TEXTS, comparison, plugins)
    seen: list[list[str]] = []
    judge = MetaStage.run

    def run(self: Any, task: Any, inputs: Any, context: Any) -> Any:
        seen.append(task.origins_of(task.test))
        return judge(self, task, inputs, context)

    monkeypatch.setattr(MetaStage, "run", run)
    scores = [comparison.run(plugins, Job(entry, 0, final, "x")).score for final in (False, True)]
    assert seen == [["digits:3", "digits:5", "digits:6"], ["digits:4", "digits:7", "digits:8"]]
    assert scores[0] != scores[1]


def test_every_fault_is_listed(plugins: Plugins, tmp_path: Path) -> None:
    """What is missing, unknown or a range is named, all at once."""
    with pytest.raises(RecipeError, match=r"task: is missing; give `--task`, .*\n.*from: is missing"):
        read_comparison({}, {}, tmp_path, plugins)
    comparison = read_comparison({}, CHANGES, tmp_path, plugins)
    with pytest.raises(RecipeError) as error:
        parse_entries(
            ["mamel", '{ use = "maml", inner_rate = -1.0 }', '{ use = "maml", stage = { train_ways = 2 } }'],
            comparison,
            plugins,
        )
    words = str(error.value)
    assert "did you mean 'maml'" in words
    assert "inner_rate" in words
    assert "train_ways: must be the episodes' 3" in words


def test_a_recipe_brings_the_setting(plugins: Plugins, tmp_path: Path) -> None:
    """Task and settings come from the recipe's meta stage, without its method; options change them."""
    stage = {key: value for key, value in CHANGES.items() if key != "task"}
    recipe = {
        "task": CHANGES["task"],
        "stage": [
            {"kind": "search"},
            {"kind": "meta", "use": "anil", "options": {"inner_rate": 9.0}, **stage},
        ],
    }
    comparison = read_comparison(recipe, {"iterations": 7, "from": "mlp"}, tmp_path, plugins)
    (entry,), _ = parse_entries(["maml"], comparison, plugins)
    assert entry.extra.iterations == 7
    assert entry.extra.episodes == EpisodeShape(3, 1, 2)
    assert entry.extra.method.inner_rate == 0.4


def test_rows_are_sorted_and_pooled(plugins: Plugins, tmp_path: Path) -> None:
    """The best comes first; the interval of two seeds is sqrt(a² + b²) / 2, and the spread is over seeds."""
    comparison = read_comparison({}, CHANGES, tmp_path, plugins)
    entries, _ = parse_entries(TEXTS, comparison, plugins)
    found = {
        entry.key: [
            Result(entry.key, 0, score, 0.03, 0.2, 0.01, 100.0, "chain"),
            Result(entry.key, 1, score + 0.02, 0.04, 0.2, 0.03, 120.0, "loop"),
        ]
        for entry, score in zip(entries, (0.5, 0.6), strict=True)
    }
    columns, rows = as_rows(entries, found, comparison, False)
    assert columns[1] == "validation accuracy"
    assert rows[0][1:] == ("61.00 ± 2.50", "1.41", "20.00", "", "20 ms", "120 MiB", "chain/loop")
    assert rows[1][0] == "maml"


def test_losses_are_best_when_low(plugins: Plugins, tmp_path: Path) -> None:
    """Where targets are numbers the score is a loss, not in per cent, and the lowest comes first."""
    changes = {
        **CHANGES,
        "task": "sine",
        "from": "mlp",
        "episodes": {"ways": 1, "shots": 5},
        "engine": "vmap",
    }
    comparison = read_comparison({}, changes, tmp_path, plugins)
    entries, _ = parse_entries(["maml", "meta-sgd"], comparison, plugins)
    found = {
        entry.key: [Result(entry.key, 0, score, 0.1, 3.0, 0.01, 100.0, "vmap")]
        for entry, score in zip(entries, (0.9, 0.5), strict=True)
    }
    columns, rows = as_rows(entries, found, comparison, True)
    assert columns[1] == "test loss"
    assert [row[:2] for row in rows] == [("meta-sgd", "0.50 ± 0.10"), ("maml", "0.90 ± 0.10")]


def test_published_results_stand_beside_equal_settings(plugins: Plugins, tmp_path: Path) -> None:
    """They are found by method, options, batch statistics, ways, shots and task; other settings have none."""
    omniglot = plugins.load("task", "omniglot")
    comparison = read_comparison({}, CHANGES, tmp_path, plugins)
    first_order, learned = (f'{{ use = "maml", {key} = true }}' for key in ("first_order", "learned_rates"))
    entries, _ = parse_entries(["maml", first_order, "reptile", "r2d2", learned], comparison, plugins)
    stages = [evolve(e.extra, episodes=EpisodeShape(5, 1, 15), normalisation="transductive") for e in entries]
    task = omniglot(root=tmp_path)
    expected = ["98.7 ± 0.4", "98.3 ± 0.5", "97.68 ± 0.04", "", ""]
    assert [published_few_shot(s, task) for s in stages] == expected
    assert published_few_shot(evolve(stages[2], normalisation="per-query"), task) == "95.39 ± 0.09"
    for other in (
        (evolve(stages[0], normalisation="support"), task),
        (evolve(stages[0], episodes=EpisodeShape(7, 1, 15)), task),
        (stages[0], omniglot(root=tmp_path, rotations=1)),
        (stages[0], comparison.task),
    ):
        assert published_few_shot(*other) == ""
    sine = plugins.load("task", "sine")
    ten = plugins.load("meta-learner", "maml")(adaptation_steps=10)
    waves = evolve(stages[0], method=ten, episodes=EpisodeShape(1, 5, 10))
    assert published_few_shot(waves, sine()) == "0.35"
    assert published_few_shot(waves, sine(amplitude=1.0)) == ""


def test_another_network_is_another_result(plugins: Plugins, tmp_path: Path) -> None:
    """The network is part of the key, of an entry as of the comparison."""
    comparison = read_comparison({}, CHANGES, tmp_path, plugins)
    other = read_comparison({}, {**CHANGES, "from": "mlp"}, tmp_path, plugins)
    changed = '{ use = "maml", stage = { from = { use = "mlp" } } }'
    keys = [e.key for s in (comparison, other) for e in parse_entries(["maml"], s, plugins)[0]]
    assert len(set(keys)) == 2
    assert parse_entries([changed], comparison, plugins)[0][0].key == keys[1]


def test_waves_of_the_validation_split_are_others(plugins: Plugins, tmp_path: Path) -> None:
    """Without `--final` a task that brings its own episodes is judged on those of its validation split;
    methods that cannot learn it are left out and named, unless they were asked for.
    """
    shape = {"ways": 1, "shots": 3, "queries": 3}
    changes = {**CHANGES, "task": "sine", "episodes": shape, "engine": "vmap"}
    changes |= {"from": {"use": "mlp", "hidden": [4]}}
    comparison = read_comparison({}, changes, tmp_path, plugins)
    (entry,), _ = parse_entries(["maml"], comparison, plugins)
    scores = [comparison.run(plugins, Job(entry, 0, final, "x")).score for final in (False, True)]
    assert scores[0] != scores[1]
    entries, left_out = parse_entries([], comparison, plugins)
    assert {e.name for e in entries} == {"anil", "maml", "meta-sgd", "reptile"}
    assert set(left_out) == {"protonet", "r2d2", "promp", "maml-pg"}
    assert "takes tasks of the form classification" in left_out["r2d2"]
    one_way = read_comparison({}, {**CHANGES, "episodes": {"ways": 1}}, tmp_path, plugins)
    with pytest.raises(RecipeError, match=r"(?s)maml: .*must be at least 2 .*r2d2: .*must be at least 2"):
        parse_entries([], one_way, plugins)
    with pytest.raises(RecipeError, match=r"r2d2: .*takes tasks of the form classification"):
        parse_entries(["r2d2"], comparison, plugins)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    """Table, files and what was compared come out of the command."""
    task = '{ use = "digits", classes = [0, 1, 2], validation_classes = [3, 5, 6], test_classes = [4, 7, 8] }'
    result = CliRunner().invoke(
        cli,
        [
            "bench", "meta-learners", "protonet", "--task", task, "--from", '{ use = "conv4", width = 4 }',
            "--stage", "{ iterations = 2, tasks = 2, episodes = { ways = 3, shots = 1, queries = 2 } }",
            "--seeds", "2", "--workers", "1", "--to", str(tmp_path / "out"),
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "digits 012, 3-way 1-shot, 2 seeds" in result.output
    assert "protonet" in (tmp_path / "out/results.md").read_text()
    assert (tmp_path / "out/results.html").exists()
