"""The generated reference: complete, and of the code as it is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType

import attrs
import pytest

from learnforge import Plugins, Train, hookspecs
from learnforge.options import describe

ROOT = Path(__file__).parents[1]
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("learnforge_"))
METHODS = sorted(
    point.name
    for point in importlib.metadata.distribution("learnforge").entry_points
    if point.group == hookspecs.GROUP
)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The module that writes the reference."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(reference: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The generated pages by name."""
    folder = tmp_path_factory.mktemp("docs") / "generated"
    reference.write(folder)
    return {file.stem: file.read_text(encoding="utf-8") for file in folder.iterdir()}


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented(pages: dict[str, str], reference: ModuleType, name: str) -> None:
    """A hook has a docstring, and the page shows it under the hook's exact signature."""
    hook = getattr(hookspecs, name)
    docstring = inspect.getdoc(hook)
    assert docstring
    _, _, section = pages["hooks"].partition(f"## `{name}`\n")
    section = section.partition("\n## ")[0]
    assert docstring in section
    parameters = inspect.signature(hook).parameters
    assert f"{name}(" in section
    assert all(f"{p.name}: {p.annotation}" in section for p in parameters.values())
    assert f"-> {inspect.signature(hook).return_annotation}" in section


def test_hooks_stand_in_the_order_of_the_code(pages: dict[str, str]) -> None:
    """The page lists hooks as `hookspecs.py` does, in the order data flow, and no other."""
    found = [line[4:-1] for line in pages["hooks"].splitlines() if line.startswith("## ")]
    assert found == [name for name in vars(hookspecs) if name.startswith("learnforge_")]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_documented(pages: dict[str, str], plugins: Plugins, name: str) -> None:
    """Every registered method has its section, with the first line of its class and all its options."""
    assert f"### `{name}`\n" in pages["methods"]
    section = pages["methods"].partition(f"### `{name}`\n")[2].partition("\n### ")[0]
    cls = plugins.load(*name.split(".", 1))
    assert " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split()) in section
    common = {"name", "method", "task"} if name.startswith("stage.") else set()
    for option in describe(cls):
        assert option.name in common or f"| `{option.name}` | {option.type} |" in section


def test_every_setting_of_a_recipe_is_documented(pages: dict[str, str], plugins: Plugins) -> None:
    """The page of recipes has every key of every kind of stage, of `train` and of the tables around them."""
    from learnforge.recipe import _STAGE_KEYS, PluginSettings, RunSettings

    classes = [plugins.load("stage", kind) for kind in plugins.names("stage")]
    for cls in (*classes, Train, RunSettings, PluginSettings):
        for field in attrs.fields(cls):
            assert (
                field.name == "method" or f"| `{field.metadata.get('key', field.name)}` |" in pages["recipe"]
            )
    assert all(f"| `{key}` |" in pages["recipe"] for key in _STAGE_KEYS)
    for kind in plugins.names("stage"):
        assert f'### `kind = "{kind}"`' in pages["recipe"]


def test_news_fragments_have_a_place() -> None:
    """towncrier's marker and template are where its settings say."""
    assert "<!-- towncrier -->\n" in (ROOT / "docs/changes.md").read_text(encoding="utf-8")
    assert (ROOT / "docs/changes.d/template.md.jinja").is_file()
