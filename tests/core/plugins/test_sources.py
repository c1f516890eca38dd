"""Plugin files and folders: what they may import, what of them counts, and how they fail."""

from __future__ import annotations

import sys

import pytest

from learnforge import PluginChoice, PluginError, Plugins
from learnforge.plugins.sources import PluginFile

METHOD = """
from attrs import frozen
from learnforge import Score, hookimpl
from .amounts import AMOUNT

@frozen
class Fixed(Score):
    def score(self, network, images, targets):
        return AMOUNT

@hookimpl
def learnforge_scores():
    return {"fixed": Fixed}
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a method and the file that it imports."""
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "fixed.py").write_text(METHOD)
    (folder / "amounts.py").write_text("AMOUNT = 3.0\n")
    yield folder
    for name in [name for name in sys.modules if name.startswith("learnforge_plugin_")]:
        del sys.modules[name]


def test_the_files_of_a_folder_import_one_another(folder):
    """A method of a folder is found by name, and runs with what it imports from the file beside it."""
    score = Plugins(PluginChoice(files=[folder])).load("score", "fixed")()
    assert score.score(None, None, None) == 3.0


def test_a_folder_counts_whole(folder):
    """A change of any file of it changes its hash, and what runs then is the new code."""
    before = PluginFile.read(folder)
    assert Plugins(PluginChoice(files=[folder])).load("score", "fixed")().score(None, None, None) == 3.0
    (folder / "amounts.py").write_text("AMOUNT = 4.0\n")
    after = PluginFile.read(folder)
    assert before.sha256 != after.sha256
    assert Plugins(PluginChoice(files=[after])).load("score", "fixed")().score(None, None, None) == 4.0


def test_a_folder_is_read_once(folder):
    """What was read is what runs, whatever the files say by then: as in a worker process."""
    read = PluginFile.read(folder)
    (folder / "amounts.py").write_text("1 / 0")
    assert Plugins(PluginChoice(files=[read])).load("score", "fixed")().score(None, None, None) == 3.0


def test_a_name_and_its_content_cannot_be_mistaken(tmp_path):
    """Text that moves from one file of a folder to the next gives another hash."""
    for name, texts in {"one": ("ab", "c"), "two": ("a", "bc")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(texts[0])
        (tmp_path / name / "b.py").write_text(texts[1])
    assert PluginFile.read(tmp_path / "one").sha256 != PluginFile.read(tmp_path / "two").sha256


def test_a_file_that_imports_its_neighbour_is_told_how(folder, tmp_path):
    """A single file has no siblings; the message names the folder, and the import to write."""
    (folder / "fixed.py").write_text(METHOD.replace("from .amounts", "from amounts"))
    with pytest.raises(PluginError, match=r"amounts.py lies beside it: pass the folder .*methods, and write"):
        Plugins(PluginChoice(files=[folder / "fixed.py"]))
    with pytest.raises(PluginError, match=r"amounts.py lies beside it: write `from .amounts import …`"):
        Plugins(PluginChoice(files=[folder]))


def test_a_folder_without_python_files_is_refused(tmp_path):
    """Most likely it is the wrong folder."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(PluginError, match="must hold Python files, it has none"):
        PluginFile.read(tmp_path / "empty")


def test_a_file_and_a_folder_of_one_name_are_refused(folder, tmp_path):
    """Their modules would be called alike."""
    (tmp_path / "methods.py").write_text("")
    with pytest.raises(PluginError, match="must have different names"):
        PluginChoice(files=[folder, tmp_path / "methods.py"])


def test_parts_of_a_folder_have_different_names(tmp_path):
    """`hide/__init__.py` and `hide/hide.py` cannot be told apart; a class that one imports is there once."""
    folder = tmp_path / "hide"
    folder.mkdir()
    (folder / "rows.py").write_text(
        "from attrs import frozen\nfrom learnforge import hookimpl\n\n"
        "@hookimpl\n@frozen(eq=False)\nclass Rows:\n"
        "    @hookimpl\n    def learnforge_stage_started(self): pass\n"
    )
    hook = "from learnforge import hookimpl\n@hookimpl\ndef learnforge_run_started(): pass\n"
    (folder / "__init__.py").write_text("from .rows import Rows\n" + hook)
    (folder / "hide.py").write_text(hook)
    with pytest.raises(PluginError, match="has two parts called 'hide'; rename one"):
        Plugins(PluginChoice(files=[folder]))
    (folder / "hide.py").rename(folder / "other.py")
    plugins = Plugins(PluginChoice(files=[folder]))
    assert [p.name for p in plugins.implementing("learnforge_run_started")] == ["hide", "other"]
    assert [p.name for p in plugins.implementing("learnforge_stage_started")] == ["Rows"]


def test_what_editors_and_systems_leave_is_no_module(folder):
    """Links of Emacs, copies of macOS, and names that cannot be imported."""
    (folder / ".#fixed.py").symlink_to("nobody@nowhere")
    (folder / "._fixed.py").write_bytes(b"\x00\x05\x16\x07")
    (folder / "a-b.py").write_text("1 / 0")
    assert Plugins(PluginChoice(files=[folder])).load("score", "fixed")


def test_names_that_make_one_module_are_refused(tmp_path):
    """`a b.py` and `a_b.py` would be known by one name in worker processes."""
    for name in ("a b.py", "a_b.py"):
        (tmp_path / name).write_text("")
    with pytest.raises(PluginError, match="must have different names"):
        PluginChoice(files=[tmp_path / "a b.py", tmp_path / "a_b.py"])


def test_a_file_that_is_taken_away_cannot_be_imported_any_more(folder):
    """What a folder held before is forgotten with the modules that came of it."""
    Plugins(PluginChoice(files=[folder]))
    (folder / "amounts.py").unlink()
    with pytest.raises(PluginError, match=r"ModuleNotFoundError: No module named '.*amounts'"):
        Plugins(PluginChoice(files=[folder]))
