"""Comparison of runs: rows of all, and only what differs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from attrs import evolve
from click.testing import CliRunner

import learnforge as lf
from learnforge.cli.group import cli
from learnforge_plugins.reports.compare import compare_runs
from learnforge_plugins.reports.reading import read_summary


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that differ in an option, in settings, model and task, and one that is the first again."""
    folder = tmp_path_factory.mktemp("runs")
    for name, rate, width, epochs, labels in (
        ("first", 1.0, 4, 2, 10), ("second", 0.5, 4, 2, 10), ("again", 1.0, 4, 2, 10), ("third", 1.0, 6, 3, 8)
    ):  # fmt: skip
        recipe: dict[str, Any] = {
            "run": {"name": "same", "seed": 3},
            "task": {"use": "digits", "classes": [0, 1, 2], "labels_per_class": labels},
            "stage": [
                {
                    "kind": "transfer",
                    "use": "fine-tune",
                    "from": {"use": "conv4", "width": width, "blocks": 2},
                    "options": {"head_rate": rate, "head_epochs": 0},
                    "train": {"epochs": epochs},
                    "baseline": False,
                }
            ],
        }
        lf.run(recipe, folder / name)
    return [folder / name for name in ("first", "second", "again", "third")]


def test_what_differs_is_listed(runs: list[Path]) -> None:
    """The option, and nothing else; each run has its row in each stage."""
    stages, settings = compare_runs([read_summary(run) for run in runs[:2]])
    assert [row[:3] for row in stages.rows] == [("transfer", str(run), "fine-tune") for run in runs[:2]]
    assert list(settings.rows) == [("transfer.method.head_rate", "1.0", "0.5")]
    assert settings.columns == ("what", str(runs[0]), str(runs[1]))


def test_settings_models_and_task_options_are_compared(runs: list[Path]) -> None:
    """Each where a stage or a method was told it."""
    _, settings = compare_runs([read_summary(runs[0]), read_summary(runs[3])])
    found = {row[0]: row[1:] for row in settings.rows}
    assert found["transfer.settings.train.epochs"] == ("2", "3")
    assert found["transfer.models.source.width"] == ("4", "6")
    assert found["transfer.tasks.0.labels_per_class"] == ("10", "8")


def test_equal_runs_differ_in_nothing(runs: list[Path]) -> None:
    """And the comparison says so."""
    _, settings = compare_runs([read_summary(runs[0]), read_summary(runs[2])])
    assert not settings.rows
    assert settings.words.startswith("In nothing")


def test_plugins_code_and_data_are_compared(runs: list[Path]) -> None:
    """The hooks that heard the run, whose code ran, and the fingerprint where that alone tells them apart."""
    first = read_summary(runs[0])
    heard = evolve(
        first,
        plugins={
            "loaded": [
                {"name": "csv", "hooks": ["learnforge_epoch_finished"]},
                {"name": "transfer.fine-tune", "hooks": ["learnforge_transfers"]},
            ]
        },
    )
    (stage,) = first.stages
    code = {**stage.parts["code"], "transfer.fine-tune": "learnforge 9.9, 01234567"}
    mended = evolve(stage, parts={**stage.parts, "code": code, "fingerprint": "f"})
    moved = evolve(stage, parts={**stage.parts, "fingerprint": "f"})
    for other, expected in (
        (heard, [("plugins", "", "csv")]),
        (
            evolve(first, stages=(mended,)),
            [("transfer.code.transfer.fine-tune", ANY, "learnforge 9.9, 01234567")],
        ),
        (evolve(first, stages=(moved,)), [("transfer.fingerprint", stage.parts["fingerprint"], "f")]),
        (
            evolve(first, stages=(moved,), versions={**first.versions, "torch": "9"}),
            [("version of torch", first.versions["torch"], "9"), ("transfer.fingerprint", ANY, "f")],
        ),
        (evolve(first, stages=(moved,), seed=8), [("run.seed", "3", "8")]),
    ):
        assert list(compare_runs([first, other])[1].rows) == expected


def test_stages_that_one_run_has_are_one_row(runs: list[Path]) -> None:
    """Their options are no differences."""
    first = read_summary(runs[0])
    other = evolve(first, stages=(evolve(first.stages[0], name="other"),))
    _, settings = compare_runs([first, other])
    assert list(settings.rows) == [
        ("transfer", "transfer by fine-tune", ""),
        ("other", "", "transfer by fine-tune"),
    ]


def test_the_command_writes_a_page(runs: list[Path], tmp_path: Path) -> None:
    """`learnforge report A B --to FILE` prints the tables and writes them with a picture."""
    target = tmp_path / "both.html"
    words = ["report", str(runs[0]), str(runs[1]), "--to", str(target)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert re.search(r"transfer\.method\.head_rate +1\.0 +0\.5", done.output)
    page = target.read_text("utf-8")
    assert "transfer.method.head_rate" in page
    assert "Accuracy on test data" in page


def test_notebooks_show_runs_and_artifacts(runs: list[Path]) -> None:
    """As tables of HTML."""
    artifact = lf.load(runs[0])
    shown = artifact._repr_html_()
    assert f"<th>test accuracy</th><td>{artifact.metrics['test_accuracy']:.1%}</td>" in shown
    assert f"test accuracy {artifact.metrics['test_accuracy']:.1%}" in repr(artifact)
    assert "made by transfer fine-tune" in repr(artifact)
    assert len(repr(artifact)) < 200
    assert "<th>made by</th><td>transfer fine-tune</td>" in shown
    assert "digits 012" in shown
    recipe = tomllib.loads((runs[0] / "recipe.toml").read_text("utf-8"))
    kept = lf.run(recipe, runs[0])._repr_html_()
    assert "<th>state</th><td>finished</td>" in kept
    assert "made by transfer fine-tune" in kept
    free = lf.run(recipe)._repr_html_()
    assert "<th>state</th><td>finished</td>" in free
    assert "&lt;" not in kept
