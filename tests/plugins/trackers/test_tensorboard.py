"""tensorboard: what was written is read back with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.plugins.trackers.test_csv_file import RECIPE

import learnforge as lf
from learnforge.cli.group import cli
from learnforge.record import write_toml


def test_numbers_are_read_back(tmp_path: Path) -> None:
    """Trials by number, epochs in order, and what stages measured."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = lf.run({**RECIPE, "plugins": {"enable": ["tensorboard"]}}, tmp_path / "run")
    log = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    log.Reload()
    tags = log.Tags()["scalars"]
    part = next(tag.split("/")[1] for tag in tags if tag.startswith("transfer/") and tag.endswith("/loss"))
    events = log.Scalars(f"transfer/{part}/loss")
    (history,) = run.artifacts["transfer"].metrics["history"].values()
    assert [event.step for event in events] == [1, 2]
    assert [event.value for event in events] == pytest.approx([entry["loss"] for entry in history])
    assert [event.step for event in log.Scalars("search/trial/accuracy")] == [0, 1]
    (event,) = log.Scalars("transfer/test_accuracy")
    assert event.value == pytest.approx(run.artifacts["transfer"].metrics["test_accuracy"])


def test_a_run_that_is_finished_leaves_no_file(tmp_path: Path) -> None:
    """Where there is nothing to do, nothing is written; where a stage is run again, a further file is."""
    recipe = {**RECIPE, "plugins": {"enable": ["tensorboard"]}}
    for _ in range(2):
        lf.run(recipe, tmp_path / "run")
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    lf.run({**recipe, "run": {**RECIPE["run"], "seed": 9}}, tmp_path / "run", overwrite=True)
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2


def test_a_missing_library_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not begin; `check` says it, and `doctor` without calling it a fault."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    words = r"plugins: tensorboard cannot be imported .*: pip install 'learnforge\[tensorboard\]'"
    with pytest.raises(lf.RecipeError, match=words):
        lf.run({**RECIPE, "plugins": {"enable": ["tensorboard"]}}, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(cli, ["check", "digits", "--plugin", "tensorboard"])
    assert done.exit_code
    assert "tensorboard cannot be imported" in str(done.exception)
    assert "tensorboard cannot be imported" in CliRunner().invoke(cli, ["doctor"]).output


def test_who_has_nothing_to_hear_of_is_told(tmp_path: Path) -> None:
    """A tracker on a run whose stages are all kept writes nothing, which the command line says."""
    file = tmp_path / "small.toml"
    file.write_text(write_toml({name: table for name, table in RECIPE.items() if name != "plugins"}))
    words = ["run", str(file), "--run", str(tmp_path / "run")]
    assert "nothing to hear of" not in CliRunner().invoke(cli, [*words, "--plugin", "csv"]).stderr
    done = CliRunner().invoke(cli, [*words, "--plugin", "tensorboard"])
    assert "all stages are kept from an earlier run, so tensorboard had nothing to hear of" in done.stderr
    assert "nothing to hear of" not in CliRunner().invoke(cli, words).stderr
