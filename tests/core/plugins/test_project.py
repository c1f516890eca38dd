"""The project file: where it is looked for, what it says, and what overrules it."""

from __future__ import annotations

import json
import os
import re
import warnings
from pathlib import Path

import pytest

from learnforge.cli import main
from learnforge.errors import RecipeError
from learnforge.plugins.choice import PluginChoice
from learnforge.plugins.project import read_project

RECIPE = """
[task]
use = "digits"
classes = [0, 1]

[[stage]]
kind = "transfer"
use = "fine-tune"
from = { use = "mlp", hidden = [4] }
options = { head_epochs = 0 }
train = { epochs = 0 }
"""
LISTENER = """
from attrs import frozen
from learnforge import hookimpl

@hookimpl
@frozen
class Say:
    word: str = "hello"

    @hookimpl
    def learnforge_run_started(self, run):
        print(self.word, run.name)
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write a project file, `project(text)`, in a folder above the current one."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "say.py").write_text(LISTENER)
    (tmp_path / "photos" / "tiny.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path / "photos")

    def write(text, name="learnforge.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path

    return write


def call(*words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


def test_without_a_file_nothing_is_said(tmp_path):
    """Runs then lie in `runs`, with one worker."""
    read = read_project(tmp_path)
    assert (read.path, str(read.run.folder), read.run.workers, read.run.cache) == (None, "runs", 1, None)


def test_the_nearest_file_counts(project, tmp_path):
    """That of the folder or of the nearest above; learnforge.toml before pyproject.toml, which needs a
    [tool.learnforge].
    """
    project("[tool.learnforge.run]\nworkers = 3\n", "pyproject.toml")
    assert read_project().run.workers == 3
    project("[run]\nworkers = 4\n")
    assert read_project().run.workers == 4
    (tmp_path / "photos" / "pyproject.toml").write_text("[tool.other]\n")
    assert read_project().run.workers == 4
    (tmp_path / "photos" / "pyproject.toml").write_text("[tool.learnforge]\n")
    assert read_project().run.workers == 1


def test_paths_are_seen_from_the_file(project):
    """Wherever a command is called below it."""
    folder = project('[run]\nfolder = "out"\ncache = "kept"\n[plugins]\nfiles = ["methods"]\n')
    read = read_project()
    assert (read.run.folder, read.run.cache, read.files) == (
        folder / "out",
        folder / "kept",
        (folder / "methods",),
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[runs]\n", "runs"),
        ("[run]\nworkers = 0\n", "run.workers"),
        ("[run]\nworker = 2\n", "run.worker"),
        ("[plugins]\nfiles = 'methods'\n", "plugins.files"),
        ("[plugins]\nenabled = []\n", "plugins.enabled"),
        ("plugins = 3\n", "plugins"),
        ("[run\n", ""),
    ],
)
def test_what_it_cannot_say_is_refused(project, text, path):
    """With the file's name and the path in it."""
    folder = project(text)
    with pytest.raises(RecipeError) as caught:
        read_project()
    assert [problem.path for problem in caught.value.problems] == [path]
    assert str(folder / "learnforge.toml") in str(caught.value)


def test_a_run_uses_it(project, capsys):
    """Its plugins take part with their options, and the run lies where it says."""
    folder = project('[run]\nfolder = "out"\n[plugins]\nfiles = ["methods"]\n[plugins.Say]\nword = "moin"\n')
    assert call("run", "tiny.toml") == 0
    assert "moin tiny" in capsys.readouterr().out
    record = json.loads((folder / "out" / "tiny" / "run.json").read_text())
    assert [file["name"] for file in record["plugins"]["files"]] == ["methods"]
    assert record["plugins"]["wishes"][0]["settings"] == {"Say": {"word": "moin"}}


def test_a_recipe_overrules_it_and_the_command_line_both(project, capsys):
    """Command line over recipe over project file."""
    project('[plugins]\nfiles = ["methods"]\n[plugins.Say]\nword = "moin"\n')
    assert call("run", "tiny.toml", "--run", "a", "--set", "plugins.Say.word=servus") == 0
    assert "servus tiny" in capsys.readouterr().out


@pytest.mark.filterwarnings("default")
def test_a_name_to_disable_may_be_missing(project, capsys):
    """A project file speaks for all runs, also where a plugin is not installed; a name to enable must be."""
    project('[plugins]\ndisable = ["nobody"]\n')
    assert call("check", "tiny.toml") == 0
    assert "'nobody' is no installed plugin" in capsys.readouterr().err
    project('[plugins]\nenable = ["nobody"]\n')
    assert call("check", "tiny.toml") == 2


def test_a_file_that_is_named_twice_is_loaded_once(project, tmp_path):
    """By the project file and on the command line."""
    project('[plugins]\nfiles = ["methods"]\n')
    choice = read_project().below(PluginChoice(files=[tmp_path / "methods"]))
    assert len(choice.files) == 1


def test_doctor_says_where_settings_come_from(project, capsys, monkeypatch):
    """Each setting with the file, variable or command line that says it."""
    folder = project('[run]\nworkers = 2\n[plugins]\nfiles = ["methods"]\n[plugins.Say]\nword = "moin"\n')
    monkeypatch.setenv("LEARNFORGE_DISABLE_PLUGINS", "searcher.rl")
    call("doctor", "--plugin", "csv")
    told = capsys.readouterr().out
    for line in (
        f"project file: {folder / 'learnforge.toml'}",
        f"workers = 2 (from {folder / 'learnforge.toml'})",
        "folder = runs (from the default)",
        f"plugin file {folder / 'methods'} (from {folder / 'learnforge.toml'})",
        f"Say.word = 'moin' (from {folder / 'learnforge.toml'})",
        "enable csv (from the command line)",
        "disable searcher.rl (from LEARNFORGE_DISABLE_PLUGINS)",
    ):
        assert line in told, told


def test_hooks_are_listed_in_the_order_of_their_calls(project, capsys, tmp_path):
    """Files as they are listed, then what is enabled; of one hook, or of all."""
    (tmp_path / "second.py").write_text(LISTENER)
    project('[plugins]\nfiles = ["methods", "second.py"]\nenable = ["csv"]\n')
    assert call("hooks", "run_started") == 0
    told = capsys.readouterr().out
    assert told.startswith("learnforge_run_started(run")
    own = "plugin 'csv' of learnforge"
    assert re.findall(r"\d\. (.*?)(?: \d.*)?\n", told) == [
        "plugin file methods",
        "plugin file second.py",
        own,
    ]
    assert call("hooks", "learnforge_missing") == 0
    assert "no loaded plugin implements it" in capsys.readouterr().out
    assert call("hooks", "run_startet") == 2
    assert "did you mean 'learnforge_run_started'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"), [("tool = 3\n", ""), ('[tool]\nlearnforge = "x"\n', "must be a table, got 'x'")]
)
def test_other_tools_tables_do_no_harm(project, tmp_path, text, words):
    """A pyproject.toml is others' too; what it says of learnforge must be a table."""
    project(text, "pyproject.toml")
    if words:
        with pytest.raises(RecipeError, match=words):
            read_project()
    else:
        assert read_project().path is None


def test_a_file_of_somebody_else_is_passed_over(project, monkeypatch):
    """On a shared machine anybody may put one into a folder above."""
    project("[run]\nworkers = 4\n")
    assert read_project().run.workers == 4
    monkeypatch.setattr("os.getuid", lambda: 12345)
    monkeypatch.setattr(
        Path, "stat", lambda path, **more: os.stat_result((0o100644, 0, 0, 0, 54321, *[0] * 5))
    )
    assert read_project().path is None


def test_a_folder_that_must_not_be_looked_into_is_passed_over(project, monkeypatch):
    """A command in a folder below it works."""
    project("[run]\nworkers = 4\n")

    def refuse(path, **more):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "is_file", refuse)
    assert read_project().path is None


def test_help_runs_no_code_of_the_project(project, capsys, tmp_path):
    """Nor does a file that is at fault keep it from being shown."""
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    project('[plugins]\nfiles = ["evil.py"]\n')
    assert call("--help") == 0
    assert "run  " in capsys.readouterr().out
    project("[plugins\n")
    assert call("--help") == 0


def test_a_run_with_a_project_file_can_be_reproduced(project, capsys):
    """What the file says of plugins that are not there, or do not take part, counts as little here."""
    project('[plugins]\ndisable = ["nobody"]\n[plugins.csv]\nevery = 10\n')
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert call("run", "tiny.toml") == 0
        capsys.readouterr()
        assert call("check", "runs/tiny") == 0
    assert "runs/tiny: can be reproduced here" in capsys.readouterr().out
