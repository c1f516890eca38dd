"""Writes the reference out of the code: recipes from the settings classes, hooks from their specifications,
methods from what is registered.
"""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import hook_examples  # docs/hook_examples.py

from learnforge import Plugins, Stage, hookspecs
from learnforge.kinds.episodes import EpisodeShape
from learnforge.options.description import OptionDescription, describe
from learnforge.options.ranges import Range, Tune
from learnforge.plugins.kinds import GROUP
from learnforge.recipe import PluginSettings, RunSettings
from learnforge_kit import Train
from learnforge_plugins.stages.distill.stage import StudentSearch
from learnforge_plugins.stages.search.record import Filter, WarmStart
from learnforge_plugins.stages.search.rungs import Rungs
from learnforge_testing.scaffold.package import write_package

STAGE_KEYS = (
    ("`name`", "a string", "", "its kind", "Name of the stage, and of its folder in the run."),
    ("`kind`", "a string", "", "required", "What sort of stage it is."),
    ("`use`", "a string", "", "required", "Name of the method."),
    ("`options`", "a table", "", "`{}`", "Options of the method."),
    ("`task`", '{ use = "task name", … }', "", "`[task]`", "The stage's own task."),
    ("`tune`", "a table", "", "none", "How options that are ranges are searched; see below."),
)


def write(folder: Path) -> None:
    """Write every generated part into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    plugins = Plugins()
    pages = {"recipe": recipe(plugins), "hooks": hooks(), "methods": methods(plugins)}
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")


def recipe(plugins: Plugins) -> str:
    """Return the tables of a recipe, and the settings of every kind of stage."""
    parts = [
        _section("`[run]`", RunSettings),
        _section("`[plugins]`", PluginSettings),
        "## `[task]`\n\n`use` names the [task](methods.md#task); every other key is an option of it.",
        f"## `[[stage]]`\n\nKeys of every stage:\n\n{_table(STAGE_KEYS)}",
    ]
    common = {field.name for field in attrs.fields(Stage)}
    for kind in plugins.names("stage"):
        cls = plugins.load("stage", kind)
        own = [option for option in describe(cls) if option.name not in common]
        method = f" `use`: see [{cls.method_kind}](methods.md#{cls.method_kind})." if cls.method_kind else ""
        parts.append(f'### `kind = "{kind}"`\n\n{_words(cls)}{method}\n\n{_options(own)}')
    parts.append(_section("`train`, `retrain`", Train))
    parts.append(_section("`rungs`", Rungs))
    parts.append(_section("`warm_start`", WarmStart))
    parts.append(_section("`filter`", Filter))
    parts.append(_section("`episodes`", EpisodeShape))
    parts.append(_section("Ranges", Range))
    parts.append(_section("`tune`", Tune))
    parts.append(_section("`student = { search = … }`", StudentSearch))
    return "\n\n".join(parts) + "\n"


def hooks() -> str:
    """Return every hook with its signature and docstring, in the order of `hookspecs.py`."""
    names = [name for name, value in vars(hookspecs).items() if is_hook(name, value)]
    return "\n\n".join(_hook(name, getattr(hookspecs, name)) for name in names) + "\n"


def is_hook(name: str, value: object) -> bool:
    """Tell hook specifications from what else is in their module."""
    return name.startswith(f"{GROUP}_") and inspect.isfunction(value)


def signature(function: Any) -> str:
    """Return a hook's signature as its source has it."""
    return f"{function.__name__}{inspect.signature(function)}".replace("'", "")


def methods(plugins: Plugins) -> str:
    """Return every registered method with its first sentence and its options, kind by kind."""
    parts = []
    for kind in sorted({plugin.kind for plugin in plugins.found} & (set(hookspecs.COLLECTING) - {"command"})):
        parts.append(f"## {kind}")
        for name in plugins.names(kind):
            cls = plugins.load(kind, name)
            common = {field.name for field in attrs.fields(Stage)} if kind == "stage" else set()
            own = [option for option in describe(cls) if option.name not in common]
            parts.append(f"### `{kind}.{name}`\n\n{_words(cls)}\n\n{_module_words(cls)}\n\n{_options(own)}")
    return "\n\n".join(parts) + "\n"


def _hook(name: str, function: Any) -> str:
    options = getattr(function, f"{GROUP}_spec", {})
    first = "\n\nThe first result that is not None counts." if options.get("firstresult") else ""
    example = f"```python\n{hook_example(name)}```"
    text = f"{inspect.getdoc(function)}{first}\n\nExample:\n\n{example}"
    return f"## `{name}`\n\n```python\n{signature(function)}\n```\n\n{text}"


def hook_example(name: str) -> str:
    """Return an implementation of a hook: from the scaffold for methods, else from `hook_examples.py`."""
    own = getattr(hook_examples, name, None)
    if own is not None:
        return inspect.getsource(own)
    kind = next(kind for kind, hook in hookspecs.COLLECTING.items() if hook == name)
    with tempfile.TemporaryDirectory() as folder:
        package = write_package(kind, "mine", Path(folder))
        text = (package / "src" / "learnforge_mine" / "mine.py").read_text(encoding="utf-8")
    return text[text.index("@hookimpl") :]


def _section(title: str, cls: type) -> str:
    return f"## {title}\n\n{_words(cls)}\n\n{_options(describe(cls))}"


def _words(cls: type) -> str:
    """Return the first sentence of a docstring."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def _module_words(cls: type) -> str:
    """Return what the module says of the method: the idea and where it comes from, as it is written there."""
    module = inspect.getmodule(cls)
    text = inspect.getdoc(module) or "" if module and "learnforge.stages" not in module.__name__ else ""
    return f"```text\n{text}\n```" if text else ""


def _options(options: Sequence[OptionDescription]) -> str:
    if not options:
        return ""
    return _table((f"`{o.name}`", o.type, _range(o.range), _default(o.default), o.words) for o in options)


def _range(text: str) -> str:
    return f"`{text}`".replace("'", '"') if text else ""


def _default(text: str) -> str:
    """Show a default as TOML writers know it; a table of defaults has a section of its own."""
    if text == "required":
        return text
    if text.startswith("{") and len(text) > 2:
        return "its defaults"
    return {"None": "none", "True": "`true`", "False": "`false`"}.get(text, f"`{text}`".replace("'", '"'))


def _table(rows: Iterable[Sequence[str]]) -> str:
    lines = ["| key | value | range | default | meaning |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
