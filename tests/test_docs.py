"""The generated reference: complete, and of the code as it is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import attrs
import pytest

import learnforge as lf
from learnforge import Plugins, hookspecs
from learnforge.options.description import describe
from learnforge.plugins.kinds import GROUP
from learnforge_kit import Train
from learnforge_plugins.reports.plugin import report_sections
from learnforge_testing.scaffold.package import TEMPLATES
from learnforge_testing.suites.hooks import RECIPE

WITH_ADAM = {**RECIPE["stage"][0], "train": {"epochs": 1, "optimizer": "adam"}}
DIVERGING = {
    "kind": "transfer",
    "use": "fine-tune",
    "from": {"use": "conv4", "width": 4},
    "train": {"epochs": 2, "optimizer": "sgd", "learning_rate": 1e30},
    "baseline": False,
}
ROOT = Path(__file__).parents[1]
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("learnforge_"))
POINTS = [p for p in importlib.metadata.distribution("learnforge").entry_points if p.group == GROUP]
METHODS = sorted(point.name for point in POINTS if "." in point.name)
"""All but the plugins of hooks alone."""


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The module that writes the reference."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        return importlib.import_module("reference")
    finally:
        sys.path.remove(str(ROOT / "docs"))


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
    example = section.partition("Example:")[2]
    assert f"def {name}(" in example


def test_every_example_of_a_hook_is_run(reference: ModuleType, tmp_path: Path) -> None:
    """What the page shows for a hook is called in a run, or is of a package whose own tests run it."""
    examples = lf.PluginChoice(files=(ROOT / "docs/hook_examples.py",))
    run = lf.run({**RECIPE, "stage": [WITH_ADAM]}, tmp_path / "good", plugins=examples)
    sections = report_sections(run)
    assert [section.title for section in sections] == ["Seconds"]
    with pytest.raises(lf.StageError):
        lf.run({**RECIPE, "stage": [DIVERGING]}, tmp_path / "bad", plugins=examples)
    module = sys.modules["learnforge_plugin_hook_examples"]
    assert run.plugins.gather("learnforge_missing", str) == []
    module.NEEDED = "a_package_that_nobody_has"
    assert run.plugins.gather("learnforge_missing", str) == ["pip install a_package_that_nobody_has"]
    heard = {"learnforge_" + note.split(":")[0] for note in module.NOTES}
    shown = {
        "learnforge_missing",
        "learnforge_report_sections",
        "learnforge_add_hooks",
        "learnforge_commands",
    }
    assert hasattr(run.plugins.hook, "learnforge_device_is_hot")
    assert run.plugins.load("command", "hello") is module.hello
    collecting = {hookspecs.hook_of(kind) for kind in TEMPLATES if kind != "hooks"}
    assert heard | shown | collecting == set(HOOKS)


def test_the_order_of_hooks_is_as_the_page_says(reference: ModuleType) -> None:
    """Wrappers first and last, then `tryfirst`, those without a wish, and `trylast`."""
    spec = importlib.util.spec_from_file_location("hook_order", ROOT / "docs/hook_order.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main() == ["before all", "early", "usual", "late", "after all"]


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
    common = {"name", "method", "task", "tune"} if name.startswith("stage.") else set()
    for option in describe(cls):
        assert option.name in common or f"| `{option.name}` | {option.type} |" in section


def test_every_setting_of_a_recipe_is_documented(pages: dict[str, str], plugins: Plugins) -> None:
    """The page of recipes has every key of every kind of stage, of `train` and of the tables around them."""
    from learnforge.options.ranges import Range, Tune
    from learnforge.recipe import _STAGE_KEYS, PluginSettings, RunSettings
    from learnforge_plugins.stages.distill.stage import StudentSearch
    from learnforge_plugins.stages.search.record import Filter, WarmStart
    from learnforge_plugins.stages.search.rungs import Rungs

    classes = [plugins.load("stage", kind) for kind in plugins.names("stage")]
    tables = (Train, RunSettings, PluginSettings, Rungs, WarmStart, Filter, Range, Tune, StudentSearch)
    for cls in (*classes, *tables):
        for field in attrs.fields(cls):
            if not field.metadata.get("internal"):
                assert f"| `{field.metadata.get('key', field.name)}` |" in pages["recipe"]
    assert all(f"| `{key}` |" in pages["recipe"] for key in _STAGE_KEYS)
    for kind in plugins.names("stage"):
        assert f'### `kind = "{kind}"`' in pages["recipe"]


def test_news_fragments_have_a_place() -> None:
    """towncrier's marker and template are where its settings say."""
    assert "<!-- towncrier -->\n" in (ROOT / "docs/changes.md").read_text(encoding="utf-8")
    assert (ROOT / "docs/changes.d/template.md.jinja").is_file()
