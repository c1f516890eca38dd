"""csv: every number once, also in a run that goes on."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import learnforge as lf

RECIPE: dict[str, Any] = {
    "run": {"name": "tracked", "seed": 0},
    "plugins": {"enable": ["csv"]},
    "task": {"use": "digits", "classes": [0, 1, 2], "labels_per_class": 10},
    "stage": [
        {
            "kind": "search",
            "use": "random",
            "space": {"use": "mlp"},
            "trials": 2,
            "train": {"epochs": 1},
            "retrain": {"epochs": 2},
        },
        {
            "kind": "transfer",
            "use": "fine-tune",
            "options": {"head_epochs": 0},
            "train": {"epochs": 2},
            "baseline": False,
        },
    ],
}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_number_is_in_the_table(tmp_path: Path) -> None:
    """Trials, epochs and results, as the artifacts have them, each once."""
    run = lf.run(RECIPE, tmp_path / "run")
    found = rows(tmp_path / "run")
    keys = [(row["stage"], row["part"], row["step"], row["name"]) for row in found]
    assert len(set(keys)) == len(keys)
    values = dict(zip(keys, (float(row["value"]) for row in found), strict=True))
    assert {key[2] for key in keys if key[1] == "trial"} == {"0", "1"}
    for stage, artifact in run.artifacts.items():
        assert values[stage, "", "", "test_accuracy"] == artifact.metrics["test_accuracy"]
        assert values[stage, "", "", "parameters"] == artifact.metrics["parameters"]
    part = next(key[1] for key in keys if key[0] == "transfer" and key[3] == "loss" and key[1])
    (history,) = run.artifacts["transfer"].metrics["history"].values()
    losses = [entry["loss"] for entry in history]
    assert [values["transfer", part, str(epoch), "loss"] for epoch in (1, 2)] == losses


def test_a_run_that_goes_on_writes_no_step_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off after the first epoch of the second stage, and gone on with, it has the whole run's table."""
    whole = lf.run(RECIPE, tmp_path / "whole")
    assert whole.state == "finished"

    class Stop:
        @lf.hookimpl
        def learnforge_epoch_finished(self, stage: str) -> None:
            if stage == "transfer":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lf.run(RECIPE, tmp_path / "cut", hooks=[Stop()])
    with (tmp_path / "cut" / "metrics.csv").open("a") as stream:
        stream.write("transfer,tr")  # what a kill left of a line
    lf.run(RECIPE, tmp_path / "cut")
    stable = {"loss", "accuracy", "test_accuracy", "validation_accuracy"}

    def numbers(folder: Path) -> list[tuple[str, ...]]:
        kept = [row for row in rows(folder) if row["name"] in stable]
        return sorted(tuple(row.values()) for row in kept)

    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")


def test_a_run_without_a_folder_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept of it, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    lf.run(RECIPE)
    assert list(tmp_path.iterdir()) == []
