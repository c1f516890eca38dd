"""What every method that learnforge brings must keep to, tested over whatever is registered."""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest

import learnforge
from learnforge import (
    Distiller,
    Executor,
    Exporter,
    MetaLearner,
    Model,
    Plugins,
    RecipeError,
    Searcher,
    Space,
    Stage,
    TaskSource,
    Transfer,
)
from learnforge.discovery import GROUP
from learnforge.options import build, describe

BASES: dict[str, type] = {
    "distiller": Distiller,
    "executor": Executor,
    "exporter": Exporter,
    "meta-learner": MetaLearner,
    "model": Model,
    "searcher": Searcher,
    "space": Space,
    "stage": Stage,
    "task": TaskSource,
    "transfer": Transfer,
}
WITH_REFERENCE = {"searcher", "distiller", "transfer", "meta-learner", "space", "model"}
NAMES = sorted(
    point.name for point in importlib.metadata.distribution("learnforge").entry_points if point.group == GROUP
)
METHOD_FILES = sorted(
    file
    for file in Path(learnforge.__file__).parents[2].glob("plugins/learnforge_plugins/*/*.py")
    if file.name != "__init__.py"
)


@pytest.fixture(params=NAMES)
def registered(request: pytest.FixtureRequest, plugins: Plugins) -> tuple[str, type[Any]]:
    """The kind and class behind an entry point, loaded as a recipe loads it."""
    kind, name = request.param.split(".", 1)
    return kind, plugins.load(kind, name)


def test_something_of_every_kind_is_registered() -> None:
    """Every kind that the core knows has at least one method, so no check below is idle."""
    assert {name.split(".", 1)[0] for name in NAMES} >= set(BASES)


def test_method_is_a_frozen_class_of_its_kind(registered: tuple[str, type[Any]]) -> None:
    """A method is a frozen attrs class that derives from its kind's base and leaves nothing abstract."""
    kind, cls = registered
    assert issubclass(cls, BASES[kind])
    assert not inspect.isabstract(cls)
    assert "__attrs_attrs__" in vars(cls), "the class itself must be decorated, not only its base"
    assert cls.__setattr__ is not object.__setattr__
    assert attrs.fields(cls) is not None
    blank = object.__new__(cls)
    for field in attrs.fields(cls):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(blank, field.name, None)


def test_every_option_has_its_words(registered: tuple[str, type[Any]]) -> None:
    """The docstring begins with a sentence and says a line about every option of the class's own."""
    kind, cls = registered
    docstring = inspect.getdoc(cls) or ""
    assert docstring.splitlines()[0].endswith(".")
    assert cls.__doc__ != (BASES[kind].__doc__)
    inherited = {field.name for field in attrs.fields(Stage)} if kind == "stage" else set()
    wordless = [o.name for o in describe(cls) if not o.words and o.name not in inherited]
    assert wordless == []


def test_docstring_names_no_other_options(registered: tuple[str, type[Any]]) -> None:
    """What `Args:` names is an option: no line is left over from one that is gone."""
    _, cls = registered
    names = {field.name for field in attrs.fields(cls)}
    section = (inspect.getdoc(cls) or "").partition("Args:\n")[2].splitlines()
    named = {line.split(":")[0].strip() for line in section if line[:4] == "    " and line[4:5].strip()}
    assert named <= names


def test_module_cites_its_source(registered: tuple[str, type[Any]]) -> None:
    """A method out of a paper says which: authors, title, year and a link."""
    kind, cls = registered
    if kind not in WITH_REFERENCE:
        pytest.skip("this kind needs no reference")
    reference = (inspect.getdoc(sys.modules[cls.__module__]) or "").partition("Reference:")[2]
    assert any(mark in reference for mark in ("arXiv:", "doi:", "https://"))


def test_unknown_option_is_refused(registered: tuple[str, type[Any]]) -> None:
    """An option that a method lacks is refused by name."""
    _, cls = registered
    with pytest.raises(RecipeError, match=r"no_such_option: unknown option; "):
        build(cls, {"no_such_option": 1}, "test")


def test_options_have_ranges(registered: tuple[str, type[Any]]) -> None:
    """Every number that is an option has a validator, as its range is a part of what it means."""
    _, cls = registered
    hints = {o.name: o.type for o in describe(cls)}
    numbers = [f for f in attrs.fields(cls) if f.init and hints[f.metadata.get("key", f.name)] in _NUMBERS]
    assert [f.name for f in numbers if f.validator is None] == []


_NUMBERS = {"a number", "a whole number"}


def test_loading_leaves_the_random_state_alone() -> None:
    """Importing every method and making it with its defaults draws nothing from a global generator."""
    script = f"""
import random, numpy, torch, attrs
import sklearn.datasets  # whose own import draws from `random`
from learnforge import Plugins

random.seed(0); numpy.random.seed(0); torch.manual_seed(0)
before = random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
plugins = Plugins()
for name in {NAMES!r}:
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


def test_every_method_file_is_registered(plugins: Plugins) -> None:
    """No method's file is left without an entry point."""
    modules = {plugins.load(*name.split(".", 1)).__module__ for name in NAMES}
    files = {f"learnforge_plugins.{file.parent.name}.{file.stem}" for file in METHOD_FILES}
    assert files <= modules
