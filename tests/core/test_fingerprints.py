"""What of files counts in a stage's fingerprint."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from attrs import frozen

import learnforge as lf
from learnforge.check import Tasks
from learnforge.fingerprints import fingerprints
from learnforge.plugins.identity import files_read
from learnforge.recipe import parse_recipe

PLUGINS = '''
from pathlib import Path
from attrs import frozen
from torch import nn
from learnforge import Distiller, Model, Space, fingerprint, hookimpl

@frozen
class Listed(Space):
    """A space whose widths are in a file that no option names."""

    def design(self, pick):
        return {"width": pick.choice("width", [4, 8])}

    def build(self, design, task):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs))

    def content(self):
        return fingerprint(Path("widths.txt").read_text())

@frozen
class Shaped(Model):
    """A model whose shape is in a file."""

    shape: Path

    def build(self, task):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, task.outputs))

@frozen
class Weighted(Distiller):
    """A distiller that reads a table."""

    table: Path
    more: tuple[Path, ...] = ()

    def loss(self, student, teacher, batch):
        return ((student.logits - teacher.logits) ** 2).mean()

@hookimpl
@frozen
class Veto:
    """A veto that reads a list."""

    forbidden: Path

    @hookimpl
    def learnforge_vet_design(self, design):
        return None

@hookimpl
def learnforge_spaces():
    return {"listed": Listed}

@hookimpl
def learnforge_models():
    return {"shaped": Shaped}

@hookimpl
def learnforge_distillers():
    return {"weighted": Weighted}
'''
MODEL = {"use": "mlp", "hidden": [4]}


@pytest.fixture
def prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return the fingerprint of a recipe with one stage, in a folder with files to read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUGINS)
    (tmp_path / "widths.txt").write_text("4 8")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "a.csv").write_text("1")

    def fingerprint(**stage: object) -> str:
        choice = lf.PluginChoice(
            files=[tmp_path / "mine.py"], settings={"Veto": {"forbidden": "forbidden.txt"}}
        )
        plugins = lf.Plugins(choice)
        recipe = {"task": {"use": "digits", "classes": [0, 1]}, "stage": [{"name": "stage", **stage}]}
        return fingerprints(parse_recipe(recipe, plugins), plugins, Tasks())["stage"]

    return fingerprint


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        ({"kind": "search", "use": "random", "space": {"use": "listed"}}, "widths.txt"),
        (
            {"kind": "transfer", "use": "fine-tune", "from": {"use": "shaped", "shape": "shape.txt"}},
            "shape.txt",
        ),
        (
            {
                "kind": "distill",
                "use": "weighted",
                "options": {"table": "table"},
                "teacher": MODEL,
                "student": MODEL,
            },
            "table/b.csv",
        ),
        (
            {
                "kind": "distill",
                "use": "weighted",
                "options": {"table": "none", "more": ["x.csv", "more.csv"]},
                "teacher": MODEL,
                "student": MODEL,
            },
            "more.csv",
        ),
        ({"kind": "transfer", "use": "fine-tune", "from": MODEL}, "forbidden.txt"),
    ],
)
def test_files_count_by_content(prints: Callable[..., str], stage: dict[str, object], file: str) -> None:
    """Those of a space, a model, a method's option and a hook's; one that none reads counts for nothing."""
    path = Path(file)
    path.write_text("4 8")
    before = prints(**stage)
    assert prints(**stage) == before
    Path("unread.txt").write_text("anything")
    assert prints(**stage) == before
    path.write_text("4 9 10")
    assert prints(**stage) != before


def test_a_folder_counts_by_what_is_in_its_files(tmp_path: Path) -> None:
    """Times of change make no difference, and a change of equal size and time does."""

    @frozen
    class Options:
        table: Path

    file = tmp_path / "table" / "a.csv"
    file.parent.mkdir()
    file.write_text("1")
    os.utime(file, ns=(10**18, 10**18))
    before = files_read(Options(file.parent))
    os.utime(file, ns=(2 * 10**18, 2 * 10**18))
    assert files_read(Options(file.parent)) == before
    file.write_text("2")
    assert files_read(Options(file.parent)) != before


def test_what_a_method_says_and_what_its_options_name_both_count(tmp_path: Path) -> None:
    """A method with `content` has its paths read as well, and those of the methods in it."""

    @frozen
    class Inner:
        shape: Path

    @frozen
    class Outer:
        inner: Inner
        word: str

        def content(self) -> str:
            return self.word

    path = tmp_path / "shape.txt"
    path.write_text("1")
    before = files_read(Outer(Inner(path), "a"))
    assert files_read(Outer(Inner(path), "b")) != before
    path.write_text("2")
    assert files_read(Outer(Inner(path), "a")) != before


def test_a_touched_file_is_the_same(tmp_path: Path) -> None:
    """A single file counts by its bytes alone."""

    @frozen
    class Options:
        table: Path

    path = tmp_path / "table.csv"
    path.write_text("1")
    before = files_read(Options(path))
    os.utime(path, (1, 1))
    assert files_read(Options(path)) == before
