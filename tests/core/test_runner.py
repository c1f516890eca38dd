"""Runs: what is kept, what is run again, what is refused, and what survives a fault."""

from __future__ import annotations

import copy
import errno
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from PIL import Image

import learnforge as lf
from learnforge import PluginChoice, PluginWarning, files
from learnforge.record import Run, processor
from learnforge.runlog import lock
from learnforge.runner import show_run
from learnforge_plugins.reports.reading import read_summary
from tests.core.recipes import DISTILL


def changed(*path: Any, value: Any) -> dict[str, Any]:
    """Return the recipe with one value changed."""
    data = copy.deepcopy(DISTILL)
    table: Any = data
    for key in path[:-1]:
        table = table[key]
    table[path[-1]] = value
    return data


def states(run: Run) -> dict[str, str]:
    return {stage.name: stage.state for stage in run.stages}


def test_a_finished_run_is_kept(tmp_path: Path) -> None:
    """Running again computes nothing and gives the same weights."""
    first = lf.run(DISTILL, tmp_path / "run")
    again = lf.run(DISTILL, tmp_path / "run")
    assert states(first) == {"first": "finished", "second": "finished"}
    assert states(again) == {"first": "kept", "second": "kept"}
    for name, tensor in (first.artifacts["second"].weights or {}).items():
        assert torch.equal(tensor, (again.artifacts["second"].weights or {})[name])


def test_the_peak_of_memory_is_kept_with_a_stage(tmp_path: Path) -> None:
    """`run.json` has it, and a run that keeps the stage keeps it too."""
    first = lf.run(DISTILL, tmp_path / "run").stages
    assert all(record.peak_mebibytes is not None and record.peak_mebibytes > 10 for record in first)
    again = lf.run(DISTILL, tmp_path / "run").stages
    assert [record.state for record in again] == ["kept"] * len(first)
    assert [record.peak_mebibytes for record in again] == [record.peak_mebibytes for record in first]
    assert [s.peak_mebibytes for s in read_summary(tmp_path / "run").stages] == [
        record.peak_mebibytes for record in first
    ]


def test_nothing_is_kept_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a folder leaves no file behind."""
    monkeypatch.chdir(tmp_path)
    lf.run(DISTILL)
    assert list(tmp_path.iterdir()) == []


def test_a_changed_stage_is_refused_then_rerun(tmp_path: Path) -> None:
    """A changed later stage is not overwritten unasked, and the earlier one is kept when it is."""
    lf.run(DISTILL, tmp_path)
    data = changed("stage", 1, "train", value={"epochs": 2})
    words = r"would be run again:\n  second: what it depends on has changed\nPass `--overwrite`"
    with pytest.raises(lf.RunError, match=words):
        lf.run(data, tmp_path)
    assert lf.load(tmp_path / "second").metrics
    assert states(lf.run(data, tmp_path, overwrite=True)) == {"first": "kept", "second": "finished"}


def test_a_change_reaches_the_stages_made_from_it(tmp_path: Path) -> None:
    """Changing the first stage runs the second again too, since its input is another."""
    lf.run(DISTILL, tmp_path)
    data = changed("stage", 0, "train", value={"epochs": 2})
    assert states(lf.run(data, tmp_path, overwrite=True)) == {"first": "finished", "second": "finished"}


def test_workers_do_not_change_a_fingerprint(tmp_path: Path) -> None:
    """How a run is carried out is no part of what it computes."""
    lf.run(DISTILL, tmp_path)
    assert states(lf.run(DISTILL, tmp_path, workers=2)) == {"first": "kept", "second": "kept"}


PLUGIN = """
from attrs import frozen
import torch.nn.functional as F
from learnforge import Distiller, hookimpl

@frozen
class Hard(Distiller):
    '''Labels only.'''
    def loss(self, student, teacher, batch):
        return F.cross_entropy(student.logits, batch.labels)

@hookimpl
def learnforge_distillers():
    return {"hard": Hard}
"""


def test_editing_a_plugin_file_reruns_the_stages_that_use_it(tmp_path: Path) -> None:
    """The source of a `--plugin` method is part of the fingerprint; stages that don't use it are kept."""
    file = tmp_path / "hard_plugin.py"
    file.write_text(PLUGIN)
    data = changed("stage", 0, "use", value="hard")
    lf.run(data, tmp_path / "run", plugins=PluginChoice(files=(file,)))
    file.write_text(PLUGIN.replace("Labels only.", "Nothing but labels."))
    run = lf.run(data, tmp_path / "run", plugins=PluginChoice(files=(file,)), overwrite=True)
    assert states(run) == {"first": "finished", "second": "finished"}
    other = lf.run(DISTILL, tmp_path / "other", plugins=PluginChoice(files=(file,)))
    file.write_text(PLUGIN)
    assert states(other) == {"first": "finished", "second": "finished"}
    assert states(lf.run(DISTILL, tmp_path / "other", plugins=PluginChoice(files=(file,)))) == {
        "first": "kept",
        "second": "kept",
    }


def test_editing_an_image_reruns_the_stages_that_use_it(tmp_path: Path) -> None:
    """The content of the data is part of the fingerprint."""
    for name, shade in (("dark", 20), ("light", 220)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (8, 8), shade + i).save(tmp_path / "images" / name / f"{i}.png")
    data = changed("stage", 1, "task", value={"use": "image-folder", "root": str(tmp_path / "images")})
    lf.run(data, tmp_path / "run")
    assert states(lf.run(data, tmp_path / "run")) == {"first": "kept", "second": "kept"}
    Image.new("L", (8, 8), 99).save(tmp_path / "images" / "dark" / "0.png")
    assert states(lf.run(data, tmp_path / "run", overwrite=True)) == {"first": "kept", "second": "finished"}


def test_a_second_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    """Two runs cannot share a folder at the same time."""
    with lock(tmp_path), pytest.raises(lf.RunError, match="another process is running here"):
        lf.run(DISTILL, tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_refusing_disk_leaves_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """When the disk is full or read-only the run ends with words, and finished stages load."""
    flush = files._flush

    def refuse(path: Path) -> None:
        if "second" in str(path) and "weights" in path.name:
            raise OSError(code, os.strerror(code))
        flush(path)

    monkeypatch.setattr(files, "_flush", refuse)
    words = "the disk is full" if code == errno.ENOSPC else "the file system is read-only"
    with pytest.raises(lf.RunError, match=words):
        lf.run(DISTILL, tmp_path)
    assert lf.load(tmp_path / "first").metrics["test_accuracy"] >= 0
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert states(lf.run(DISTILL, tmp_path)) == {"first": "kept", "second": "finished"}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    """A file in the way is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(lf.RunError, match="cannot write"):
        lf.run(DISTILL, tmp_path / "file" / "run")


def test_a_diverging_stage_names_epoch_and_step(tmp_path: Path) -> None:
    """A loss that is not finite ends the stage with its place, and the stage before stays."""
    data = changed("stage", 1, "train", value={"epochs": 3, "learning_rate": 1e30, "optimizer": "sgd"})
    with pytest.raises(lf.StageError, match=r"stage 'second': .*epoch \d+, step \d+ of \d+"):
        lf.run(data, tmp_path)
    assert lf.load(tmp_path / "first").metrics
    found = json.loads((tmp_path / "run.json").read_text())
    assert found["state"] == "failed"
    assert [stage["state"] for stage in found["stages"]] == ["finished", "failed"]
    summary = read_summary(tmp_path)
    assert datetime.now(UTC) - datetime.fromisoformat(f"{summary.day}T00:00+00:00") < timedelta(days=2)
    assert summary.processor == processor()
    assert "cores" in processor()


HOOKS = """
from learnforge import hookimpl
seen = []

@hookimpl
def learnforge_run_started(run): seen.append("run started")
@hookimpl
def learnforge_stage_started(stage): seen.append(f"{stage} started")
@hookimpl
def learnforge_epoch_finished(stage, metrics): seen.append(f"{stage} epoch {metrics['epoch']}")
@hookimpl
def learnforge_stage_finished(stage, artifact): seen.append(f"{stage} finished")
@hookimpl
def learnforge_run_finished(run): seen.append("run finished")
@hookimpl
def learnforge_run_failed(run, error): seen.append(f"run failed: {type(error).__name__}")
"""


def test_a_run_is_shown_by_copies(tmp_path: Path) -> None:
    """Who shows a run can neither change it nor end it."""
    file = tmp_path / "shows.py"
    file.write_text(
        "from learnforge import hookimpl\n\n@hookimpl\n"
        "def learnforge_show_run(run):\n    run.artifacts.clear()\n    raise OSError('no screen')\n"
    )
    run = lf.run(DISTILL, tmp_path / "run", plugins=PluginChoice(files=(str(file),)))
    names = set(run.artifacts)
    with pytest.warns(PluginWarning, match="`learnforge_show_run` fails with OSError: no screen"):
        show_run(run)
    assert set(run.artifacts) == names != set()


def test_folders_that_no_run_made_are_never_emptied(tmp_path: Path) -> None:
    """A folder with a stage's name that holds other files is refused and left alone."""
    thesis = tmp_path / "second" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    (tmp_path / ".lock").touch()  # of a run that was
    with pytest.raises(lf.RunError, match="holds files that no run made"):
        lf.run(DISTILL, tmp_path)
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize(("name", "what"), [("artifact.json", "a network"), ("notes.txt", "'notes.txt'")])
def test_folders_of_somebody_else_are_no_runs(tmp_path: Path, name: str, what: str) -> None:
    """A run neither mixes with a network that `adapt` made nor writes its recipe over somebody's files."""
    (tmp_path / "five").mkdir()
    (tmp_path / "five" / name).write_text("{}")
    with pytest.raises(lf.RunError, match=f"must be new, empty or .* it holds {what} that no run put there"):
        lf.run(DISTILL, tmp_path / "five")
    assert [path.name for path in (tmp_path / "five").iterdir()] == [name]


def test_a_kill_while_a_stage_is_prepared_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note cut off in its writing, or a folder half cleared, is taken up by the next run."""
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / ".stage.json.7.tmp").write_text("{")
    (tmp_path / ".lock").touch()
    lf.run(DISTILL, tmp_path)
    data = changed("stage", 1, "train", value={"epochs": 2})
    removed: list[Path] = []

    def die(path: Path) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        files.remove(path)

    monkeypatch.setattr("learnforge.runner.remove", die)
    with pytest.raises(KeyboardInterrupt):
        lf.run(data, tmp_path, overwrite=True)
    monkeypatch.undo()
    assert states(lf.run(data, tmp_path, overwrite=True)) == {"first": "kept", "second": "finished"}


@pytest.mark.parametrize("name", ["../..", "a/b", "", ".hidden"])
def test_a_runs_name_cannot_lead_elsewhere(name: str) -> None:
    """The name of a run is the name of a folder, never a path."""
    with pytest.raises(lf.RecipeError, match=r"run\.name: 'name' must be letters, digits"):
        lf.run(changed("run", "name", value=name))


def test_an_input_given_as_an_object_counts_by_its_content(tmp_path: Path) -> None:
    """Two artifacts with other weights are other inputs, whatever their provenance says."""
    digits = lf.load_task("digits", classes=[0, 1, 2])
    made = lf.transfer(lf.load_method("model.conv4")(width=4, blocks=1), digits, train={"epochs": 1})
    other = evolve(made, weights={name: t + 1 for name, t in (made.weights or {}).items()})
    lf.export(made, digits, run=tmp_path)
    with pytest.raises(lf.RunError, match="would be run again"):
        lf.export(other, digits, run=tmp_path)
    assert lf.export(made, digits, run=tmp_path).metrics["is_equal"]


def test_a_moved_plugin_file_is_the_same_method(tmp_path: Path) -> None:
    """A fingerprint holds what a plugin file says, not where it lies."""
    data = changed("stage", 0, "use", value="hard")
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "hard_plugin.py").write_text(PLUGIN)
    lf.run(data, tmp_path / "run", plugins=PluginChoice(files=(tmp_path / "here" / "hard_plugin.py",)))
    moved = lf.run(
        data, tmp_path / "run", plugins=PluginChoice(files=(tmp_path / "there" / "hard_plugin.py",))
    )
    assert states(moved) == {"first": "kept", "second": "kept"}


def test_an_executor_does_not_change_a_fingerprint(plugins: lf.Plugins) -> None:
    """Where trials run is no part of what a search finds."""
    stage = plugins.load("stage", "search")
    space = plugins.load("space", "residual")()
    method = plugins.load("searcher", "random")()
    plain = stage(name="s", space=space, method=method)
    elsewhere = evolve(plain, executor=plugins.load("executor", "processes")())
    assert elsewhere.fingerprint_data() == plain.fingerprint_data()
    assert evolve(plain, trials=3).fingerprint_data() != plain.fingerprint_data()


def test_notifications_come_in_order(tmp_path: Path) -> None:
    """Each event fires its hook once, in order, and stands in the event log."""
    file = tmp_path / "listening.py"
    file.write_text(HOOKS)
    run = lf.run(DISTILL, tmp_path / "run", plugins=PluginChoice(files=(file,)))
    module = next(p for p in run.plugins.manager.get_plugins() if getattr(p, "seen", None))
    assert module.seen == [
        "run started",
        "first started",
        "first epoch 1",
        "first finished",
        "second started",
        "second epoch 1",
        "second finished",
        "run finished",
    ]
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    logged = [json.loads(line)["event"] for line in lines]
    assert logged == [
        "run_started",
        *["stage_started", "epoch_finished", "stage_finished"] * 2,
        "run_finished",
    ]


def test_provenance_knows_the_ancestors(tmp_path: Path) -> None:
    """An artifact names its method, its parents, and every class that it or an ancestor was trained on."""
    run = lf.run(DISTILL, tmp_path)
    first, second = run.artifacts["first"].provenance, run.artifacts["second"].provenance
    assert second.parents == (first.fingerprint,)
    assert second.origins == {"digits:0", "digits:1", "digits:2", "digits:6", "digits:8"}
    assert second.method["use"] == "fine-tune"
    assert second.identity["distribution"] == "learnforge"
    assert lf.load(tmp_path / "second").provenance == second
