"""The comparison of distillers: paired students, one teacher, a cache, and going on after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from click.testing import CliRunner

from learnforge import PluginChoice, Plugins, RecipeError, load_method
from learnforge.cli.group import cli
from learnforge.context import Silence
from learnforge_kit import Train
from learnforge_plugins.commands.bench import comparison as bench
from learnforge_plugins.commands.bench import training
from learnforge_plugins.commands.bench.comparison import Job, compare
from learnforge_plugins.commands.bench.distillers import (
    BASELINE,
    Result,
    as_rows,
    parse_entries,
    read_comparison,
)
from learnforge_plugins.commands.bench.entries import Entry
from learnforge_plugins.commands.bench.published import published_for
from learnforge_plugins.commands.bench.summary import judged, mean, paired_gain
from learnforge_plugins.optimizers.torch import SGD

CHANGES: dict[str, Any] = {
    "task": {"use": "digits", "classes": [0, 1, 2], "labels_per_class": 10},
    "teacher": {"use": "conv4", "width": 8, "blocks": 2},
    "teacher_train": {"epochs": 2},
    "student": {"use": "mlp", "hidden": [4]},
    "train": {"epochs": 2, "crop": 1},
}


@pytest.mark.slow
def test_every_method_gets_the_same_teacher_and_start(plugins: Plugins, tmp_path: Path) -> None:
    """The teacher is trained once and its scores are shared; baselines do not ask it; results are kept."""
    comparison = read_comparison({}, CHANGES, tmp_path, plugins)
    entries, _ = parse_entries(["kd", '{ use = "dist", beta = 1.0 }', "rkd"], comparison, plugins)
    assert [entry.name for entry in entries] == [BASELINE, "kd", "dist, beta=1.0", "rkd"]
    found = compare(entries, comparison, 2, plugins, Silence(), workers=1)
    assert [len(results) for results in found.values()] == [2, 2, 2, 2]
    assert len((tmp_path / "students.jsonl").read_text().splitlines()) == 8
    by_name = {entry.name: found[entry.key] for entry in entries}
    assert all(r.asked == r.computed == 0 for r in by_name[BASELINE])
    assert by_name["kd"][0].computed > 0
    assert [r.computed for r in by_name["dist, beta=1.0"]] == [0, 0]
    assert all(r.computed == r.asked > 0 for r in by_name["rkd"])  # it listens to layers
    assert all(r.test is None for results in found.values() for r in results)
    assert len(list((tmp_path / "cache" / "teachers").glob("*/about.json"))) == 1
    assert list((tmp_path / "training").iterdir()) == []


def test_stages_of_a_recipe_must_have_run(plugins: Plugins, tmp_path: Path) -> None:
    """A teacher that is an earlier stage of the recipe is asked for as the folder of its run."""
    recipe = {
        "task": CHANGES["task"],
        "stage": [
            {"kind": "search", "name": "found"},
            {"kind": "distill", "teacher": "found", "student": "mlp"},
        ],
    }
    with pytest.raises(RecipeError, match=r"teacher: is the stage 'found' .* `--teacher runs/NAME/found`"):
        read_comparison(recipe, {}, tmp_path, plugins)
    assert read_comparison(recipe, {"teacher": "conv4", "teacher_train": {"epochs": 1}}, tmp_path, plugins)


@pytest.mark.slow
def test_it_goes_on_where_it_was_cut_off(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept is not trained again, and what was lost comes out the same."""
    comparison = read_comparison({}, CHANGES, tmp_path, plugins)
    entries, _ = parse_entries(["kd"], comparison, plugins)
    first = compare(entries, comparison, 2, plugins, Silence(), workers=1)
    lines = (tmp_path / "students.jsonl").read_text().splitlines()
    (tmp_path / "students.jsonl").write_text("\n".join(lines[:2]) + "\n")
    monkeypatch.setattr(bench, "run_jobs", _never)
    with pytest.raises(AssertionError, match="trained again"):
        compare(entries, comparison, 2, plugins, Silence(), workers=1)
    monkeypatch.undo()
    second = compare(entries, comparison, 2, plugins, Silence(), workers=1)
    accuracies = [
        {key: [r.validation for r in results] for key, results in found.items()} for found in (first, second)
    ]
    assert accuracies[0] == accuracies[1]


def test_what_was_begun_under_other_settings_does_not_go_on(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student that was cut off is no start for one of other epochs; another teacher is trained anew."""
    longer = read_comparison({}, {**CHANGES, "train": {"epochs": 3}}, tmp_path, plugins)
    shorter = read_comparison({}, CHANGES, tmp_path, plugins)
    entries, _ = parse_entries(["kd"], shorter, plugins)
    monkeypatch.setattr(training, "remove", lambda folder: None)  # as if it were killed at the end
    longer.prepare(plugins, Silence())
    for entry in entries:
        longer.run(plugins, Job(entry, 0, conditions="a" * 16))
    alone = read_comparison({}, CHANGES, tmp_path / "alone", plugins)
    alone.prepare(plugins, Silence())
    for entry in entries:
        found = shorter.run(plugins, Job(entry, 0, conditions="b" * 16))
        want = alone.run(plugins, Job(entry, 0, conditions="b" * 16))
        assert found.validation == want.validation
        assert found.asked == want.asked
    other = read_comparison({}, {**CHANGES, "teacher_train": {"epochs": 1}}, tmp_path, plugins)
    assert other.shared_folder != shorter.shared_folder
    assert other.conditions != shorter.conditions


def test_methods_that_cannot_be_wired_are_left_out(plugins: Plugins, tmp_path: Path) -> None:
    """Between perceptrons there are no stages: such methods are named with the reason."""
    flat = {**CHANGES, "teacher": {"use": "mlp", "hidden": [8]}}
    comparison = read_comparison({}, flat, tmp_path, plugins)
    left, left_out = parse_entries([], comparison, Plugins())
    assert set(left_out) - {"sum"} == {"attention", "fitnet"}
    assert {"baseline", "kd", "rkd", "crd"} <= {entry.name for entry in left}
    with pytest.raises(RecipeError, match="has no stages"):
        parse_entries(["kd", "attention", "fitnet"], comparison, Plugins())


def _never(*arguments: Any) -> Any:
    raise AssertionError("trained again")


def _result(entry: Entry, seed: int, validation: float, test: float | None = None) -> Result:
    return Result(entry.key, seed, validation, test, 10.0, 100, 200)


def test_lines_by_hand() -> None:
    """Gains are paired by seed: mean, standard error, and how many errors they are."""
    base, other = Entry(BASELINE, None, BASELINE), Entry("kd", None, "k")
    found = {
        BASELINE: [_result(base, 0, 0.5, 0.50), _result(base, 1, 0.5, 0.60)],
        "k": [_result(other, 0, 0.6, 0.53), _result(other, 1, 0.8, 0.65)],
    }
    gain, error = paired_gain(judged(found["k"]), judged(found[BASELINE]))
    assert gain == pytest.approx(0.04)  # of the test accuracies: 0.03 and 0.05
    assert error == pytest.approx(0.01)
    assert mean([r.validation for r in found["k"]]) == pytest.approx(0.7)
    columns, rows = as_rows([other, base], found, {"kd": 73.33})
    assert [row[0] for row in rows] == [BASELINE, "kd"]
    assert columns[-1] == "published"
    assert rows[0][:4] == (BASELINE, "50.00 ± 0.00", "55.00 ± 7.07", "")
    assert rows[1][1:] == ("70.00 ± 14.14", "59.00 ± 8.49", "+4.00 ± 1.00", "4.0", "10", "100", "73.33")


def test_without_tests_gains_are_of_validation() -> None:
    """Where the test split was not read, it is in no column."""
    base, other = Entry(BASELINE, None, BASELINE), Entry("kd", None, "k")
    found = {BASELINE: [_result(base, 0, 0.5)], "k": [_result(other, 0, 0.75)]}
    columns, rows = as_rows([base, other], found)
    assert "test" not in columns
    assert rows[1][2] == "+25.00 ± 0.00"


def test_published_figures_belong_to_their_pair() -> None:
    """They stand beside CIFAR-100, the pair and the training that they were measured with, and no other."""
    task = {"use": "torchvision", "name": "CIFAR100"}
    pair = [{"use": "resnet", "depth": depth, "width": 4, "projection": True} for depth in (32, 8)]
    train = Train(
        epochs=240,
        batch_size=64,
        optimizer=load_method("optimizer.sgd")(nesterov=False),
        learning_rate=0.05,
        weight_decay=5e-4,
        decay_all=True,
        schedule="step",
    )
    found = published_for(task, *pair, train)
    assert found["kd"] == 73.33
    assert found["crd"] == 75.51
    assert published_for({**task, "name": "CIFAR10"}, *pair, train) == {}
    assert published_for(task, *pair, evolve(train, epochs=1)) == {}
    assert published_for(task, *reversed(pair), train) == {}
    assert published_for(task, {**pair[0], "projection": False}, pair[1], train) == {}


def test_other_code_of_an_optimizer_is_another_training(tmp_path: Path) -> None:
    """A teacher that other code has trained is not taken for the same; equal code and options are."""
    source = """
import torch
from attrs import frozen
from learnforge import Optimizer, hookimpl

@frozen
class Mine(Optimizer):
    rate: float = 1.0

    def make(self, groups):
        return torch.optim.SGD(groups, momentum={})

@hookimpl
def learnforge_optimizers():
    return {{"mine": Mine}}
"""
    found = []
    for folder, momentum, rate in (("a", 0.5, 1.0), ("b", 0.5, 1.0), ("c", 0.9, 1.0), ("d", 0.5, 2.0)):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "mine.py"
        file.write_text(source.format(momentum))
        method = Plugins(PluginChoice(files=(file,))).load("optimizer", "mine")(rate=rate)
        found.append(training.train_print(Train(optimizer=method)))
    assert found[0] == found[1]
    assert found[0] not in found[2:]
    assert training.train_print(None) is None


def test_the_recipe_of_the_literature_is_whole(plugins: Plugins) -> None:
    """examples/recipes/cifar100-kd.toml has the training that the published figures are of."""
    from learnforge.recipe import parse_recipe, read_recipe

    path = Path(__file__).parents[4] / "examples" / "recipes" / "cifar100-kd.toml"
    (stage,) = parse_recipe(read_recipe(path), plugins).stages
    for train in (stage.train, stage.teacher_train):  # type: ignore[attr-defined]
        assert train.optimizer == SGD(momentum=0.9, nesterov=False)
        assert (train.weight_decay, train.decay_all, train.batch_size) == (5e-4, True, 64)
        rates = [train.learning_rate * train.rate(epoch, 240, 1) for epoch in (0, 149, 150, 180, 210, 239)]
        assert rates == pytest.approx([0.05, 0.05, 5e-3, 5e-4, 5e-5, 5e-5])
    assert stage.method.temperature == 4.0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"student": None}, "student: is missing"),
        ({"teacher_train": None}, "teacher: is a model without weights for the task"),
        ({"student": {"use": "mpl"}}, "did you mean 'mlp'"),
        ({"train": {"epoch": 3}}, "did you mean 'epochs'"),
        ({"teacher": [{"use": "mlp"}]}, "teacher: must be a single network here"),
        ({"student": {"search": {}}}, "student: must be a single network here"),
        ({"train": {"learning_rate": {"low": 0.1, "high": 1.0}}}, "must be a value here, it is a range"),
    ],
)
def test_wrong_settings_are_refused(plugins: Plugins, tmp_path: Path, changes: Any, words: str) -> None:
    """All that is wrong is reported before anything trains."""
    merged = {key: value for key, value in {**CHANGES, **changes}.items() if value is not None}
    with pytest.raises(RecipeError) as caught:
        read_comparison({}, merged, tmp_path, plugins)
    assert words in str(caught.value)


def test_all_that_is_installed_by_default(plugins: Plugins, tmp_path: Path) -> None:
    """Without names every distiller is compared that can be made without options; the others are named."""
    deep = {**CHANGES, "student": {"use": "conv4", "width": 4, "blocks": 2}}
    comparison = read_comparison({}, deep, tmp_path, plugins)
    entries, left_out = parse_entries([], comparison, plugins)
    assert {"kd", "dkd", "dist", "logit-std", "fitnet", "attention", "rkd", "crd"} <= {
        e.name for e in entries
    }
    assert left_out == {"sum": "it needs options"}
    with pytest.raises(RecipeError, match="did you mean 'kd'"):
        parse_entries(["kdd"], comparison, plugins)


def test_the_command(tmp_path: Path) -> None:
    """`learnforge bench distillers` prints a table and writes it with the picture and the command."""
    recipe = tmp_path / "recipe.toml"
    lines = [
        "[task]",
        'use = "digits"',
        "classes = [0, 1]",
        "labels_per_class = 10",
        "[[stage]]",
        'kind = "distill"',
        'use = "kd"',
        'teacher = { use = "conv4", width = 4, blocks = 2 }',
        "teacher_train = { epochs = 1 }",
        'student = { use = "mlp", hidden = [4] }',
    ]
    recipe.write_text("\n".join(lines))
    words = ["bench", "distillers", "logit-std", "--recipe", str(recipe), "--train", "{ epochs = 1 }"]
    more = ["--seeds", "2", "--workers", "1", "--final", "--to", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, words + more)
    assert done.exit_code == 0, done.output
    assert "logit-std" in done.output
    text = (tmp_path / "out" / "results.md").read_text()
    assert "| baseline |" in text
    assert "Teacher conv4 (width=4, blocks=2, downsample=pool, flatten=False)" in text
    assert "Gain over the baseline" in (tmp_path / "out" / "results.html").read_text()
    kept = [json.loads(line) for line in (tmp_path / "out" / "students.jsonl").read_text().splitlines()]
    assert all(result["test"] is not None for result in kept)


def test_a_teacher_may_come_from_a_file(tmp_path: Path) -> None:
    """Workers find the network that this process has trained for all of them."""
    file = tmp_path / "mine.py"
    file.write_text(
        "from attrs import frozen\nfrom torch import nn\nfrom learnforge import Model, hookimpl\n\n"
        "@frozen\nclass Flat(Model):\n"
        "    def build(self, task): return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs))\n\n"
        "@hookimpl\ndef learnforge_models(): return {'flat': Flat}\n"
    )
    plugins = Plugins(PluginChoice(files=(file,)))
    changes = {**CHANGES, "teacher": {"use": "flat"}, "student": {"use": "flat"}}
    comparison = read_comparison({}, changes, tmp_path / "bench", plugins)
    entries, _ = parse_entries(["kd"], comparison, plugins)
    found = compare(entries, comparison, 2, plugins, Silence(), workers=1)
    assert [len(results) for results in found.values()] == [2, 2]
    assert len(list((tmp_path / "bench" / "teachers").iterdir())) == 1
