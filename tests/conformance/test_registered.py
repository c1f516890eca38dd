"""What is registered as a whole: every kind, every file, and what importing it all leaves alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from learnforge.plugins.kinds import KINDS
from learnforge_testing.conformance import WITHOUT_SUITE
from tests.conformance.registered import CHECKED, METHODS, POINTS, kind_of

METHOD_FILES = sorted(
    file
    for file in (Path(__file__).parents[2] / "plugins" / "learnforge_plugins").glob("*/*.py")
    if file.name != "__init__.py"
    and file.parent.name not in ("commands", "recipes", "reports", "scripts", "stages")
)


def test_something_of_every_kind_is_registered() -> None:
    """Every kind that the core knows has at least one method, so that no suite is idle."""
    assert {kind_of(name) for name in CHECKED} - {"hooks"} == set(KINDS) - WITHOUT_SUITE


def test_loading_leaves_the_random_state_alone() -> None:
    """Importing every method and making it with its defaults draws nothing from a global generator."""
    script = f"""
import random, numpy, torch, attrs
import sklearn.datasets  # whose own import draws from `random`
from learnforge import Plugins

random.seed(0); numpy.random.seed(0); torch.manual_seed(0)
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
plugins = Plugins()
for name in {METHODS!r}:
    cls = plugins.load(*name.split(".", 1))
    if all(f.default is not attrs.NOTHING for f in attrs.fields(cls)):
        made = cls()
        if name == "task.digits":
            made.load()
after = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
assert before == after
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", METHOD_FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_method_file_imports_no_other_method(file: Path) -> None:
    """A method's file stands alone: it imports no module of learnforge's plugins, at the top or inside."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in froms if node.level] == []
    imported += [node.module or "" for node in froms]
    assert [name for name in imported if name.startswith("learnforge_plugins")] == []


def test_every_method_file_is_registered() -> None:
    """No method's file is left without an entry point."""
    modules = {point.value for point in POINTS}
    files = {f"learnforge_plugins.{file.parent.name}.{file.stem}" for file in METHOD_FILES}
    assert files <= modules


def test_every_kind_is_in_one_of_the_files() -> None:
    """No kind's suites are left out."""
    texts = [file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    for kind in {kind_of(name) for name in CHECKED}:
        assert sum(f'"{kind}"' in text.partition("@of_kinds(")[2].partition(")")[0] for text in texts) == 1
