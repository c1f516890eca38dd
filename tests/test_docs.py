"""The documentation: complete, of the code as it is, with pages that can be reached and examples that run."""

from __future__ import annotations

import doctest
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import attrs
import click
import pytest

import learnforge as lf
import learnforge_kit
import learnforge_testing
from learnforge import Plugins, hookspecs
from learnforge.plugins.kinds import GROUP, hook_of
from learnforge_kit import Train
from learnforge_kit.description import describe
from learnforge_plugins.commands import new
from learnforge_plugins.reports.plugin import report_sections
from learnforge_testing.hooks import RECIPE
from learnforge_testing.scaffold.package import TEMPLATES

ROOT = Path(__file__).parents[1]
WITH_ADAM = {**RECIPE["stage"][0], "train": {"epochs": 1, "optimizer": "adam"}}
DIVERGING = {
    "kind": "transfer",
    "use": "fine-tune",
    "from": {"use": "conv4", "width": 4},
    "train": {"epochs": 2, "optimizer": "sgd", "learning_rate": 1e30},
    "baseline": False,
}
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("learnforge_"))
POINTS = [p for p in importlib.metadata.distribution("learnforge").entry_points if p.group == GROUP]
ELSEWHERE = ("stage", "command", "recipe")
"""What is documented with the recipe's keys, with the command line, and in the guides."""

METHODS = sorted(p.name for p in POINTS if "." in p.name and p.name.split(".")[0] not in ELSEWHERE)
STAGES = sorted(point.name for point in POINTS if point.name.startswith("stage."))
PACKAGES = (lf, learnforge_kit, learnforge_testing)
PUBLIC = [f"{package.__name__}.{name}" for package in PACKAGES for name in package.__all__]
TAKEN = {"search", "genindex", "py-modindex", "objects", "searchindex"}
"""Names of pages that Sphinx writes itself."""

SOURCES = sorted(
    path
    for path in (ROOT / "docs").rglob("*.md")
    if not {"_build", "generated", "changes.d"} & set(path.relative_to(ROOT / "docs").parts)
)
WITH_DOCTESTS = sorted(
    ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    for root in (ROOT / "core", ROOT / "plugins")
    for path in root.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


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
        "learnforge_show_run",
        "learnforge_check_run",
    }
    run.plugins.hook.learnforge_show_run(run=run)
    lack = run.plugins.hook.learnforge_check_run(folder=tmp_path / "good", choice=examples)
    assert lack == [["report.html: was written, is missing"]]
    assert run.plugins.load("tuner", "search") is not None  # the example of tuners is learnforge's own
    assert hasattr(run.plugins.hook, "learnforge_device_is_hot")
    assert run.plugins.load("command", "hello") is module.hello
    collecting = {hook_of(kind) for kind in TEMPLATES if kind != "hooks"} | {"learnforge_tuners"}
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
    """Every registered method has its section on its kind's page, with the first line of its class and all
    its options.
    """
    kind, _, method = name.partition(".")
    page = pages[f"methods-{kind}"]
    assert f"## `{method}`\n" in page
    section = page.partition(f"\n## `{method}`\n")[2].partition("\n## ")[0]
    cls = plugins.load(kind, method)
    first = (inspect.getdoc(cls) or "").partition("\n\n")[0]
    assert " ".join(first.split()) in " ".join(section.replace("\\", "").split())
    assert all(f"| `{option.name}` | {option.type} |" in section for option in describe(cls))
    assert (ROOT / f"docs/reference/methods/{kind}.md").is_file()


@pytest.mark.parametrize("name", STAGES)
def test_every_kind_of_stage_is_documented(pages: dict[str, str], plugins: Plugins, name: str) -> None:
    """Every kind of stage has its section on the page of recipes, with all keys that others do not have."""
    kind = name.removeprefix("stage.")
    section = pages["recipe"].partition(f'### `kind = "{kind}"`\n')[2].partition("\n## ")[0]
    common = {"name", "method", "task", "tune"}
    assert section
    for option in describe(plugins.load("stage", kind)):
        assert option.name in common or f"| `{option.name}` | {option.type} |" in section


def test_every_command_is_documented(pages: dict[str, str]) -> None:
    """Every command, also one within a command, has its section, with all its options."""
    from learnforge.cli.group import cli

    def check(command: click.Command, path: str) -> None:
        section = re.split(rf"^#+ `{path}`\n", pages["commands"], flags=re.MULTILINE)[1].partition("\n## ")[0]
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[0] in common + section
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                check(inner, f"{path} {name}")

    context = click.Context(cli)
    common = pages["commands"].partition("\n## `")[0]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        check(command, f"learnforge {name}")


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_once(pages: dict[str, str], name: str) -> None:
    """A public name has its directive on one page of the Python reference, and that page is shown."""
    found = [
        page
        for page, text in pages.items()
        if page.startswith("python-")
        for _ in re.findall(rf"^\.\. \S+:: {re.escape(name)}$", text, re.MULTILINE)
    ]
    assert len(found) == 1
    assert f"generated/{found[0]}.md" in (ROOT / f"docs/reference/{found[0]}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", WITH_DOCTESTS)
def test_examples_in_docstrings_run(module: str) -> None:
    """Examples in docstrings give what they say."""
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "docs")))
def test_no_page_has_a_name_that_sphinx_takes(path: Path) -> None:
    """A page called `search` would be overwritten by Sphinx's own `search.html`."""
    assert path.relative_to(ROOT / "docs").with_suffix("").as_posix() not in TAKEN


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SOURCES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_links_to_files_resolve(path: Path) -> None:
    """A link within the repository leads to a file that is there."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http", "#")):
            assert (path.parent / target.partition("#")[0]).is_file(), target


def test_every_kind_is_in_the_guide_and_in_the_help() -> None:
    """Whoever writes a plugin finds every kind that there is."""
    guide = (ROOT / "docs/how-to/write-a-plugin.md").read_text(encoding="utf-8")
    for kind in TEMPLATES:
        assert f"| `{kind}` |" in guide
        assert re.search(rf"\b{kind}\b", new.command.help or "")


def test_every_kind_has_a_page_of_its_own() -> None:
    """No two kinds share a how-to, and each page holds what it shows to the suite of the kind."""
    guide = (ROOT / "docs/how-to/write-a-plugin.md").read_text(encoding="utf-8")
    found = dict(re.findall(r"^\| `([\w-]+)` \| \[[^\]]+\]\(([\w.-]+)\)", guide, re.MULTILINE))
    assert set(found) == set(TEMPLATES)
    assert len(set(found.values())) == len(found)
    for kind, page in found.items():
        text = (ROOT / "docs/how-to" / page).read_text(encoding="utf-8")
        assert re.search(rf"learnforge conformance {'' if kind == 'hooks' else kind + '.'}\w", text), page


def test_the_readme_is_short() -> None:
    """Who opens the README reads it to its end: at most 800 words."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 800


@pytest.mark.slow
def test_pages_are_built(tmp_path: Path) -> None:
    """Sphinx builds without a warning; every source has its own page, and every public name its anchor."""
    build = [sys.executable, "-m", "sphinx", "-W", "-q", "-b", "html", str(ROOT / "docs"), str(tmp_path)]
    subprocess.run(build, check=True)
    for source in SOURCES:
        page = tmp_path / source.relative_to(ROOT / "docs").with_suffix(".html")
        title = re.search(r"^# (.+)$", source.read_text(encoding="utf-8"), re.MULTILINE)
        heading = re.search(r"<h1>(.+?)<a", page.read_text(encoding="utf-8"), re.DOTALL)
        assert title is not None
        assert heading is not None
        plain = re.sub(r"<[^>]+>", "", heading[1]).replace("’", "'")
        assert plain == title[1].replace("`", ""), source
    built = "".join(
        path.read_text(encoding="utf-8") for path in (tmp_path / "reference").glob("python-*.html")
    )
    assert [name for name in PUBLIC if f'id="{name}"' not in built] == []


def test_every_setting_of_a_recipe_is_documented(pages: dict[str, str], plugins: Plugins) -> None:
    """The page of recipes has every key of every kind of stage, of `train` and of the tables around them."""
    from learnforge.options.ranges import Range, Tune
    from learnforge.plugins.choice import PluginSettings
    from learnforge.plugins.project import ProjectRun
    from learnforge.recipe import _STAGE_KEYS, RunSettings
    from learnforge_plugins.stages.distill.stage import StudentSearch
    from learnforge_plugins.stages.search.record import Filter, WarmStart
    from learnforge_plugins.stages.search.rungs import Rungs

    classes = [plugins.load("stage", kind) for kind in plugins.names("stage")]
    tables = (Train, RunSettings, PluginSettings, Rungs, WarmStart, Filter, Range, Tune, StudentSearch)
    for cls in (*classes, *tables, ProjectRun):
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
