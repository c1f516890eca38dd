"""Folders of runs that are a stranger's, or damaged: nothing is written elsewhere, and it is told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import learnforge as lf
from learnforge.files import read_record, write_record
from learnforge.record import find_artifact
from learnforge_plugins.reports.reading import read_summary

RECIPE = {
    "run": {"name": "tiny", "device": "cpu"},
    "task": {"use": "digits", "classes": [0, 1]},
    "stage": [
        {
            "kind": "transfer",
            "use": "fine-tune",
            "from": {"use": "mlp", "hidden": [4]},
            "options": {"head_epochs": 0},
            "train": {"epochs": 0},
        }
    ],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("strays") / "run"
    lf.run(RECIPE, folder)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it that may be harmed."""
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "name", ["events.jsonl", ".lock", "transfer/study.db", "transfer/checkpoint", "transfer"]
)
@pytest.mark.parametrize("call", [lambda folder: lf.run(RECIPE, folder), read_summary], ids=["run", "report"])
def test_links_that_lead_out_of_a_run_are_refused(
    folder: Path, tmp_path: Path, name: str, call: Callable[[Path], object]
) -> None:
    """What a run would write through them stays as it was."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("kept")
    link = folder / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    target = outside if name in ("transfer", "transfer/checkpoint") else outside / "precious"
    link.symlink_to(target, target_is_directory=target.is_dir())
    with pytest.raises(
        lf.RunError, match=rf"{name} is a link that leads out of the run's folder; put what it"
    ):
        call(folder)
    assert [path.name for path in outside.iterdir()] == ["precious"]
    assert (outside / "precious").read_text() == "kept"


def test_links_inside_a_run_are_its_own(folder: Path) -> None:
    """A link to a place in the same run leads nowhere else."""
    (folder / "latest").symlink_to("transfer")
    assert lf.run(RECIPE, folder).stages[0].state == "kept"


@pytest.mark.parametrize("name", ["../other", "/etc", "", 3, None])
def test_a_stages_name_leads_nowhere_else(folder: Path, name: object) -> None:
    """Reports and predictions take names from a record, which may be anybody's."""
    record = read_record(folder / "run.json")
    record["stages"][0]["name"] = name
    write_record(folder / "run.json", record)
    for call in (read_summary, find_artifact):
        with pytest.raises(lf.LearnforgeError, match="is no name of a stage"):
            call(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"stages": 3}', '{"stages": [{}]}', "[" * 100_000, "\x00\xff"]
)
def test_a_damaged_record_is_told(folder: Path, text: str) -> None:
    """To who reads it; a run goes on from the artifacts, which say themselves what they are."""
    (folder / "run.json").write_text(text)
    with pytest.raises(lf.RunError, match=r"run\.json is damaged"):
        read_summary(folder)
    with pytest.raises((lf.ArtifactError, lf.RunError)):
        find_artifact(folder)
    with pytest.warns(lf.DamageWarning, match=r"run\.json is damaged"):
        assert lf.run(RECIPE, folder).stages[0].state == "kept"


def test_a_report_leaves_out_what_it_cannot_read(folder: Path) -> None:
    """A stage whose metrics are damaged is shown as such."""
    (folder / "transfer" / "metrics.json").write_text('{"test_accuracy": 0.')
    (stage,) = read_summary(folder).stages
    assert (stage.state, stage.metrics) == ("damaged", {})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        *(
            ("artifact.json", text)
            for text in ("", "[]", "3", "null", '{"format": 2, "spec": 3}', "[" * 100_000)
        ),
        *(("metrics.json", text) for text in ("", "3", "null", "[" * 100_000)),
    ],
)
def test_a_damaged_artifact_is_told(folder: Path, file: str, text: str) -> None:
    """Whatever stands in its files."""
    (folder / "transfer" / file).write_text(text)
    with pytest.raises(lf.ArtifactError, match=rf"{file} is damaged|{file} is not the file"):
        lf.load(folder / "transfer")


def test_what_a_killed_process_left_half_written_is_taken_away(folder: Path) -> None:
    """Files of another's writing that is going on stay."""
    old, new = folder / ".report.html.123.tmp", folder / "transfer" / ".weights.safetensors.456.tmp"
    for file in (old, new):
        file.write_text("half")
    os.utime(old, (1, 1))
    read_summary(folder)
    assert not old.exists()
    assert new.exists()


@pytest.mark.parametrize("call", [lambda folder: lf.run(RECIPE, folder), read_summary], ids=["run", "report"])
def test_a_folder_that_is_no_run_is_left_as_it_is(tmp_path: Path, call: Callable[[Path], object]) -> None:
    """Nothing in it is taken away, however old, and whatever its name is like."""
    other = tmp_path / ".notes.txt.123.tmp"
    other.write_text("somebody's")
    os.utime(other, (1, 1))
    with pytest.raises(lf.RunError):
        call(tmp_path)
    assert other.read_text() == "somebody's"


def test_only_drafts_of_a_run_are_taken_away(folder: Path) -> None:
    """Other hidden files, and folders, are the user's."""
    kept = [folder / ".mine.tmp", folder / ".cache.x.tmp"]
    for file in kept:
        file.write_text("mine")
        os.utime(file, (1, 1))
    read_summary(folder)
    assert [file.read_text() for file in kept] == ["mine", "mine"]


@pytest.mark.parametrize("file", ["metrics.json", "weights.safetensors", "artifact.json"])
def test_a_finished_stage_that_is_damaged_is_not_run_again_unasked(folder: Path, file: str) -> None:
    """It took its time once; a copy may be at hand."""
    whole = (folder / "transfer" / file).read_bytes()
    (folder / "transfer" / file).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(lf.RunError, match=rf"would be run again:\n  transfer: .*{file}.*\n.*--overwrite"):
        lf.run(RECIPE, folder)
    assert lf.run(RECIPE, folder, overwrite=True).stages[0].state == "finished"
    assert lf.load(folder).metrics
