"""tensorboard: what was written is read back with TensorBoard's own reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.plugins.trackers.test_csv_file import RECIPE

import learnforge as lf


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


def test_a_missing_library_is_named_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault is the tracker's alone."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.warns(lf.LearnforgeWarning, match=r"pip install learnforge\[tensorboard\]"):
        run = lf.run({**RECIPE, "plugins": {"enable": ["tensorboard"]}}, tmp_path / "run")
    assert run.state == "finished"
