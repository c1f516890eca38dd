"""`learnforge check RUN` says whether a run can be reproduced here, and what differs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import learnforge as lf
from learnforge import PluginChoice, RunError
from learnforge.cli import main
from learnforge.files import read_record, write_record
from learnforge.record import versions
from learnforge_plugins.reports.reproduction import compare
from tests.core.recipes import DISTILL

TRACKER = """
from learnforge import hookimpl

@hookimpl
def learnforge_batch(batch): return None
"""


@pytest.fixture
def folder(tmp_path):
    """A finished run with a plugin file."""
    file = tmp_path / "mine.py"
    file.write_text(TRACKER)
    lf.run(DISTILL, tmp_path / "run", plugins=PluginChoice(files=(file,)))
    yield tmp_path / "run"
    sys.modules.pop("learnforge_plugin_mine", None)


@pytest.fixture
def choice(tmp_path, folder):
    """The choice that the run was made with."""
    return PluginChoice(files=(tmp_path / "mine.py",))


def change(folder: Path, edit) -> None:
    record = read_record(folder / "run.json")
    edit(record)
    write_record(folder / "run.json", record)


def whats(differences):
    return [difference.what for difference in differences]


def test_nothing_differs_where_the_run_was_made(folder, choice):
    """In the same environment, with the same files, the run can be reproduced."""
    assert compare(folder, choice) == []


def test_the_record_holds_plugins_versions_and_options(folder, tmp_path):
    """Every plugin with distribution and version, the file with its hash, and every option of every stage."""
    record = json.loads((folder / "run.json").read_text())
    loaded = {entry["name"]: entry for entry in record["plugins"]["loaded"]}
    assert {
        "distiller.kd",
        "transfer.fine-tune",
        "model.conv4",
        "task.digits",
        "stage.distill",
        "mine",
    } <= set(loaded)
    assert loaded["mine"]["hooks"] == ["learnforge_batch"]
    assert loaded["distiller.kd"]["distribution"] == "learnforge"
    assert record["plugins"]["files"][0]["name"] == "mine.py"
    assert len(record["plugins"]["files"][0]["sha256"]) == 64
    first, second = record["stages"]
    assert first["method"] == {"use": "kd", "temperature": 4.0, "alpha": 0.9}
    assert first["parts"]["settings"]["train"]["batch_size"] == 64
    assert first["parts"]["models"]["teacher"] == {
        "use": "conv4",
        "width": 4,
        "blocks": 2,
        "downsample": "pool",
        "flatten": False,
    }
    assert second["parts"]["tasks"][0]["classes"] == [6, 8]
    assert {code["name"] for code in first["parts"]["code"]} == {"distill", "kd", "digits", "conv4"}


def test_a_missing_and_a_changed_file_are_told(folder, choice, tmp_path):
    """The file is asked for by name and hash, and never loaded because the record names it."""
    (difference, *_) = compare(folder)
    assert difference.what == "plugin file mine.py"
    assert str(difference).startswith("plugin file mine.py: was SHA-256 ")
    assert f"not given; pass --plugin with that file; it was {tmp_path}/mine.py" in str(difference)
    (tmp_path / "mine.py").write_text(TRACKER.replace("None", "batch"))
    found = compare(folder, PluginChoice(files=(tmp_path / "mine.py",)))
    assert whats(found) == ["plugin file mine.py", "stage 'first'", "stage 'second'"]


def test_versions_threads_and_device_are_told(folder, choice):
    """What the bits depend on beside the code is held against the record, with what to do."""

    def edit(record):
        for stage in record["stages"]:
            stage["made_with"]["versions"] |= {"torch": "1.0", "python": "2.7"}
            stage["made_with"] |= {"threads": 64, "device": "cuda"}

    change(folder, edit)
    found = {d.what: d for d in compare(folder, choice)}
    assert set(found) == {"torch", "python", "threads of torch", "device"}
    assert str(found["torch"]) == f"torch: was 1.0, is {versions()['torch']}; pip install torch==1.0"
    assert str(found["threads of torch"]) == "threads of torch: was 64, is 1; set OMP_NUM_THREADS=64"


def test_plugins_of_other_versions_are_told(folder, choice):
    """A distribution that is missing or of another version is named once."""

    def edit(record):
        for name in ("one", "two"):
            record["stages"][0]["made_with"]["loaded"].append(
                {
                    "name": f"distiller.{name}",
                    "distribution": "gone",
                    "version": "3.1",
                    "source": "",
                    "hooks": [],
                }
            )

    change(folder, edit)
    assert [str(d) for d in compare(folder, choice)] == ["gone: was 3.1, is missing; pip install gone==3.1"]


def test_a_stage_that_depends_on_something_else_is_told(folder, choice):
    """Where settings, code or data changed, the fingerprints of the stage and those after it differ."""
    recipe = (folder / "recipe.toml").read_text()
    (folder / "recipe.toml").write_text(recipe.replace("epochs = 1", "epochs = 2", 1))
    assert whats(compare(folder, choice)) == ["stage 'first'", "stage 'second'"]


def test_a_recipe_that_cannot_run_here_is_told(folder, choice, monkeypatch):
    """A method that is refused here is a difference with the recipe's own error."""
    monkeypatch.setenv("LEARNFORGE_DISABLE_PLUGINS", "distiller.kd")
    (difference,) = compare(folder, choice)
    assert difference.what == "recipe"
    assert "is disabled by LEARNFORGE_DISABLE_PLUGINS" in difference.advice


def test_a_folder_without_a_run_is_refused(tmp_path):
    """No record, and a damaged one, are errors that name the file."""
    with pytest.raises(RunError, match=r"must be the folder of a run, it has no run.json"):
        compare(tmp_path)
    write_record(tmp_path / "run.json", {})
    with pytest.raises(RunError, match=r"run.json cannot be read as the record of a run: KeyError"):
        compare(tmp_path)


def test_the_command_says_so(folder, tmp_path, capsys):
    """Exit status 0 and a sentence, or 1 and every difference."""
    for words, code in ((["--plugin", str(tmp_path / "mine.py")], 0), ([], 1)):
        with pytest.raises(SystemExit) as ended:
            main(["check", str(folder), *words])
        assert (ended.value.code or 0) == code
    shown = capsys.readouterr().out
    assert f"{folder}: can be reproduced here" in shown
    assert "cannot be reproduced bit for bit here" in shown


def test_kept_stages_stay_as_they_were_made(folder, choice):
    """Going on with a finished run elsewhere computes nothing, and so changes nothing of how it was made."""

    def edit(record):
        for stage in record["stages"]:
            stage["made_with"]["threads"] = 64

    change(folder, edit)
    assert {s.state for s in lf.run(DISTILL, folder, plugins=choice).stages} == {"kept"}
    assert whats(compare(folder, choice)) == ["threads of torch"]


def test_what_timing_decided_is_told(folder, choice):
    """A search with several workers and no `batch` depends on which trial ended first."""

    def edit(record):
        stage = record["stages"][0]
        stage["kind"] = "search"
        stage["parts"]["settings"]["batch"] = None
        stage["made_with"]["workers"] = 2

    change(folder, edit)
    (difference,) = compare(folder, choice)
    assert str(difference) == (
        "stage 'first': was 2 workers without `batch`, is a matter of timing; set `batch`, and parallel "
        "searches repeat"
    )


@pytest.mark.parametrize("key", ["student", "tune"])
def test_searches_inside_a_stage_are_told_as_well(folder, choice, key):
    """A search for a student, or over a stage's options, depends on timing like any other."""

    def edit(record):
        stage = record["stages"][0]
        stage["parts"]["settings"][key] = {"trials": 3, "batch": None}
        stage["made_with"]["workers"] = 2

    change(folder, edit)
    assert "2 workers without `batch`" in str(compare(folder, choice)[0])


def test_a_record_cannot_undo_the_environment(folder, choice, install, monkeypatch):
    """Whatever places a record names, what the environment refuses is not imported."""
    install("lf-test-a", {"lf-test-evil": "lf_test_evil"}, {"lf_test_evil": "raise SystemExit('ran')"})
    wish = {"where": "LEARNFORGE_DISABLE_PLUGINS", "enable": ["lf-test-evil"], "disable": []}
    wish |= {"settings": {}, "is_general": False}
    change(folder, lambda record: record["plugins"]["wishes"].append(wish))
    monkeypatch.setenv("LEARNFORGE_DISABLE_PLUGINS", "lf-test-evil")
    with pytest.warns(lf.PluginWarning, match="enabled by the run's LEARNFORGE_DISABLE_PLUGINS and disabled"):
        compare(folder, choice)
    assert "lf_test_evil" not in sys.modules


def test_calls_and_hooks_in_python_are_told(tmp_path):
    """A run of a call, or with hooks that were added in Python, cannot be repeated from its record alone."""

    class Listener:
        @lf.hookimpl
        def learnforge_stage_started(self, stage):
            pass

    lf.run(DISTILL, tmp_path / "hooks", hooks=[Listener(), Listener()])
    assert [str(d) for d in compare(tmp_path / "hooks")] == [
        f"hooks '{name}': was added in Python, is not known from the record; add them again"
        for name in ("Listener", "Listener 2")
    ]
    conv4 = lf.load_method("model.conv4")(width=4, blocks=1)
    digits = lf.load_task("digits", classes=[0, 1])
    lf.transfer(conv4, digits, run=tmp_path / "call", train={"epochs": 1}, baseline=False)
    (difference,) = compare(tmp_path / "call")
    assert difference.then == "a call in Python"
