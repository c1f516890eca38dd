"""The comparison of transfer strategies: equal labels for all, a source trained once, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from click.testing import CliRunner

from learnforge import Plugins, RecipeError, Task
from learnforge.artifact import load_artifact
from learnforge.cli.group import cli
from learnforge.context import Silence
from learnforge_kit import Train
from learnforge_plugins.commands.bench import comparison as comparing
from learnforge_plugins.commands.bench import training
from learnforge_plugins.commands.bench import transfers as bench
from learnforge_plugins.commands.bench.comparison import Job, compare
from learnforge_plugins.commands.bench.entries import Entry
from learnforge_plugins.commands.bench.summary import judged
from learnforge_plugins.commands.bench.transfers import (
    SCRATCH,
    SOURCE_ONLY,
    Result,
    as_rows,
    keep_labels,
    lengthen,
    parse_entries,
    read_comparison,
)

LABELS = [0, 5]
NEW = {"use": "digits", "classes": [5, 6, 7]}
CHANGES: dict[str, Any] = {
    "task": NEW,
    "from": {"use": "conv4", "width": 4, "blocks": 2},
    "source_task": {"use": "digits", "classes": [0, 1, 2], "labels_per_class": 20},
    "source_train": {"epochs": 2},
    "train": {"epochs": 1},
}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of few steps."""
    monkeypatch.setattr(bench, "LEAST_STEPS", 3)


def test_labels_are_drawn_by_seed_and_class(task: Task) -> None:
    """Each class keeps as many as asked for, or all there are; other seeds keep others."""
    few = keep_labels(task, 4, 0)
    assert few.train.labels.bincount().tolist() == [4, 4, 4]
    assert few.train.content == keep_labels(task, 4, 0).train.content
    assert few.train.content != keep_labels(task, 4, 1).train.content
    assert few.test is task.test
    assert keep_labels(task, 1000, 0).train.content == task.train.content


def test_short_epochs_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 10 images and batches of 4 there are 3 steps an epoch, so 200 steps take 67 epochs."""
    monkeypatch.setattr(bench, "LEAST_STEPS", 200)
    assert lengthen(Train(epochs=5, batch_size=4), 10).epochs == 67
    assert lengthen(Train(epochs=5, batch_size=4), 1000).epochs == 5
    assert lengthen(Train(epochs=0), 10).epochs == 0


def test_adaptation_counts_steps_of_the_labelled_task(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without labels an epoch is one of the labelled task, however few images the new one has."""
    monkeypatch.setattr(bench, "LEAST_STEPS", 200)
    counted: list[int] = []
    monkeypatch.setattr(
        bench, "lengthen", lambda train, images: counted.append(images) or evolve(train, epochs=0)
    )
    changes = {key: value for key, value in CHANGES.items() if key != "source_train"}
    comparison = read_comparison(changes, [0], tmp_path, plugins)
    comparison.run(plugins, Job(bench.baseline_of(0), 0, case=(0,)))
    assert comparison.stage.source_task is not None
    labelled = len(comparison.stage.source_task.load().train)
    assert counted == [labelled] != [len(comparison.task.load().train)]


@pytest.mark.slow
def test_strategies_and_the_baseline_get_the_same_labels(plugins: Plugins, tmp_path: Path) -> None:
    """Source trained once, results by strategy, labels and seed; without `--final` no test accuracy."""
    labels = [2, None]
    comparison = read_comparison(CHANGES, labels, tmp_path, plugins)
    entries, _ = parse_entries(["fine-tune", "linear-probe"], comparison, plugins)
    found = compare(entries, comparison, 2, plugins, Silence())
    assert set(found) == {(key, count) for key in (SCRATCH, *(e.key for e in entries)) for count in labels}
    assert all(len(results) == 2 and results[0].test is None for results in found.values())
    assert len(list((tmp_path / "sources").iterdir())) == 1
    assert comparison.shared_folder is not None
    source = load_artifact(comparison.shared_folder)
    assert source.task.classes == ("0", "1", "2")
    columns, rows = as_rows(entries, labels, found)
    assert columns[2] == "validation"
    assert [row[:2] for row in rows[:1]] == [("2", SCRATCH)]
    assert {row[1] for row in rows[1:3]} == {"fine-tune", "linear-probe"}
    assert [row[0] for row in rows] == ["2"] * 3 + ["all"] * 3


@pytest.mark.slow
def test_it_goes_on_where_it_was_cut_off(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the ledger holds is not computed again, unless the conditions changed."""
    comparison = read_comparison(CHANGES, [2], tmp_path, plugins)
    entries, _ = parse_entries(["linear-probe"], comparison, plugins)
    first = compare(entries, comparison, 2, plugins, Silence())
    file = tmp_path / "transfers.jsonl"
    kept = file.read_text().splitlines()
    file.write_text("\n".join(kept[:-1]) + "\n")
    again = compare(entries, comparison, 2, plugins, Silence())
    assert [judged(results) for results in again.values()] == [judged(results) for results in first.values()]
    assert len(file.read_text().splitlines()) == len(kept)
    other = read_comparison({**CHANGES, "train": {"epochs": 2}}, [2], tmp_path, plugins)
    compare(entries, other, 2, plugins, Silence())
    assert len(file.read_text().splitlines()) == 2 * len(kept)
    assert json.loads(kept[0])["entry"] in (SCRATCH, entries[0].key)


def test_methods_that_train_nothing_need_a_source_that_knows(plugins: Plugins, tmp_path: Path) -> None:
    """`adabn` and `tent` are refused an untrained model, or left out where all are compared; not so when it
    is trained first.
    """
    changes = {**CHANGES, "task": {"use": "digits", "classes": [0, 1, 2], "split_seed": 1}}
    trained = read_comparison(changes, [0], tmp_path, plugins)
    assert len(parse_entries(["adabn", "tent"], trained, plugins)[0]) == 2
    del changes["source_train"]
    fresh = read_comparison(changes, [0], tmp_path, plugins)
    with pytest.raises(RecipeError, match="source must know the classes, which adabn does not learn, but"):
        parse_entries(["adabn"], fresh, plugins)
    entries, left_out = parse_entries([], fresh, plugins)
    assert {"adabn", "tent"} <= set(left_out)
    assert {e.name for e in entries} == {"cdan", "coral", "dann", "mmd"}


@pytest.mark.slow
def test_without_labels_methods_of_domain_adaptation_are_compared(plugins: Plugins, tmp_path: Path) -> None:
    """The baseline knows the labelled task alone; what they are developed by needs no new label."""
    changes = {
        **CHANGES,
        "task": {"use": "digits", "classes": [0, 1, 2], "split_seed": 1},
        "validator": "infomax",
    }
    del changes["source_train"]
    comparison = read_comparison(changes, [0], tmp_path, plugins)
    entries, _ = parse_entries(["coral"], comparison, plugins)
    found = compare(entries, comparison, 2, plugins, Silence(), is_final=True)
    assert set(found) == {(SOURCE_ONLY, 0), (entries[0].key, 0)}
    for results in found.values():
        assert all(r.test is not None for r in results)
    again = compare(entries, comparison, 2, plugins, Silence())  # for choosing, not final
    for results in again.values():
        assert all(r.validation != round(r.validation, 2) for r in results)  # scores in nats, no shares
    _, rows = as_rows(entries, [0], again, has_validator=True)
    scores = [r.validation for r in again[SOURCE_ONLY, 0]]
    assert rows[0][2].startswith(f"{sum(scores) / 2:.2f} ± ")
    comparison.prepare(plugins, Silence())
    assert not (tmp_path / "sources").exists()


def test_a_source_may_know_other_classes_where_labels_are_given(plugins: Plugins, tmp_path: Path) -> None:
    """Two classes after three: fine with labels, refused without any."""
    changes = {**CHANGES, "task": {"use": "digits", "classes": [5, 6]}}
    assert read_comparison(changes, [5], tmp_path, plugins).source_train is not None
    with pytest.raises(RecipeError, match="source_task: must have the new task's 2 classes"):
        read_comparison(changes, [0], tmp_path, plugins)


def test_withheld_labels_change_nothing(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other labels in the new task's training and validation images give the same score without labels."""
    changes = {**CHANGES, "task": {"use": "digits", "classes": [0, 1, 2], "split_seed": 1}}
    del changes["source_train"]
    comparison = read_comparison(changes, [0], tmp_path, plugins)
    (entry,), _ = parse_entries(["coral"], comparison, plugins)
    load = training.load_task

    def poisoned(source: Any) -> Task:
        task = load(source)
        if source == comparison.stage.source_task:
            return task
        splits = {
            name: evolve(getattr(task, name), labels=(getattr(task, name).labels + 1) % 3)
            for name in ("train", "validation")
        }
        return evolve(task, **splits)

    plain = comparison.run(plugins, Job(entry, 0, conditions="a" * 16, case=(0,))).validation
    monkeypatch.setattr(training, "load_task", poisoned)
    assert comparison.run(plugins, Job(entry, 0, conditions="b" * 16, case=(0,))).validation == plain


def test_without_names_everything_that_fits_is_compared(plugins: Plugins, tmp_path: Path) -> None:
    """With labels the strategies for labels, without the methods that adapt a domain."""
    with_five, with_none = (read_comparison(CHANGES, [count], tmp_path, plugins) for count in (5, 0))
    with_labels = {e.name for e in parse_entries([], with_five, plugins)[0]}
    without = {e.name for e in parse_entries([], with_none, plugins)[0]}
    assert {"fine-tune", "linear-probe", "lora"} <= with_labels
    assert {"dann", "cdan", "coral", "mmd", "adabn", "tent"} == without
    assert not with_labels & without
    with pytest.raises(RecipeError, match="dann: needs no label of the new task; ask for `--labels 0`"):
        parse_entries(["dann"], with_five, plugins)
    with pytest.raises(RecipeError, match="fine-tune: learns from labels; ask for some, `--labels 5`"):
        parse_entries(["fine-tune"], with_none, plugins)
    alone = read_comparison({"task": NEW, "from": CHANGES["from"]}, [5], tmp_path, plugins)
    with pytest.raises(
        RecipeError, match="source_task: is missing; `--labels 0` adapts from a labelled task"
    ):
        parse_entries(["coral"], evolve(alone, labels=[0]), plugins)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": NEW}, "from: is missing; give `--from`"),
        ({"from": "conv4"}, "task: is missing; give `--task`"),
        (
            {"task": NEW, "from": "conv4", "source_train": {"epochs": 1}},
            "source_task: is missing; the source is trained on it",
        ),
        (
            {
                "task": NEW,
                "from": "conv4",
                "source_task": CHANGES["source_task"],
                "source_train": {"epoch": 1},
            },
            r"source_train\.epoch: unknown option",
        ),
    ],
)
def test_wrong_settings_are_refused(
    changes: dict[str, Any], message: str, plugins: Plugins, tmp_path: Path
) -> None:
    """What is missing or wrong is named."""
    with pytest.raises(RecipeError, match=message):
        read_comparison(changes, LABELS, tmp_path, plugins)


def test_gains_are_paired() -> None:
    """Gains are differences to the baseline of the same seed: 10 and 20 points, so 15 ± 5."""

    def results(key: str, *values: float) -> list[Result]:
        return [Result(key, 5, seed, 0.0, value, 1.0) for seed, value in enumerate(values)]

    entry = Entry("mine", None, "m")
    found = {(SCRATCH, 5): results(SCRATCH, 0.5, 0.6), ("m", 5): results("m", 0.6, 0.8)}
    columns, rows = as_rows([entry], [5], found)
    assert columns == ("labels", "strategy", "test", "gain ± error", "errors", "seconds")
    assert rows[0] == ("5", SCRATCH, "55.00 ± 7.07", "", "", "1.0")
    assert rows[1] == ("5", "mine", "70.00 ± 14.14", "+15.00 ± 5.00", "3.0", "1.0")


def test_the_command_shows_and_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strategies and labels as given; table and picture are written."""
    monkeypatch.setattr(
        comparing, "run_jobs", lambda work, jobs, plugins, *rest: (work(plugins, *job) for job in jobs)
    )
    options = {
        "--task": '{ use = "digits", classes = [5, 6, 7] }',
        "--from": '{ use = "conv4", width = 4, blocks = 2 }',
        "--source-task": '{ use = "digits", classes = [0, 1, 2] }',
        "--source-train": "{ epochs = 1 }",
        "--train": "{ epochs = 1 }",
        "--labels": "2,4",
        "--seeds": "2",
        "--to": str(tmp_path),
    }
    words = [word for pair in options.items() for word in pair]
    threads = torch.get_num_threads()
    done = CliRunner().invoke(cli, ["bench", "transfers", "linear-probe", *words], catch_exceptions=False)
    assert torch.get_num_threads() == threads
    assert "from scratch" in done.output
    assert "linear-probe" in done.output
    assert "labels per class" in (tmp_path / "results.html").read_text()
    assert "| 4" in (tmp_path / "results.md").read_text()
    wrong = CliRunner().invoke(cli, ["bench", "transfers", *words[:-6], "--labels", "2,some"])
    assert "must be whole numbers or `all`, got some" in wrong.output
