"""Writes the reference out of the code: recipes from the settings classes, hooks from their specifications,
methods from what is registered, commands from the command line, Python names from `__all__`.
"""

from __future__ import annotations

import inspect
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import api  # docs/api.py
import attrs
import click
import hook_examples  # docs/hook_examples.py
from docstrings import to_markdown  # docs/docstrings.py

from learnforge import Plugins, Stage, hookspecs
from learnforge.cli.group import cli
from learnforge.kinds.seen.episodes import EpisodeShape
from learnforge.options.ranges import Range, Tune
from learnforge.plugins.choice import PluginSettings
from learnforge.plugins.kinds import GROUP, HOOKS, KINDS
from learnforge.plugins.project import ProjectRun
from learnforge.recipe import RunSettings
from learnforge_kit import Train
from learnforge_kit.description import OptionDescription, describe
from learnforge_plugins.stages import tuning
from learnforge_plugins.stages.distill.stage import StudentSearch
from learnforge_plugins.stages.search.record import Filter, WarmStart
from learnforge_plugins.stages.search.rungs import Rungs
from learnforge_testing.scaffold.package import TEMPLATES, write_package

STAGE_KEYS = (
    ("`name`", "a string", "", "its kind", "Name of the stage, and of its folder in the run."),
    ("`kind`", "a string", "", "required", "What sort of stage it is."),
    ("`use`", "a string", "", "required", "Name of the method."),
    ("`options`", "a table", "", "`{}`", "Options of the method."),
    ("`task`", '{ use = "task name", … }', "", "the input's, or `[task]`", "The stage's own task."),
    ("`tune`", "a table", "", "none", "How options that are ranges are searched; see below."),
)
NO_PAGE = ("stage", "command")
"""Kinds that are documented elsewhere: stages with the recipe's keys, commands with the command line."""

EVERYWHERE = ("plugin_words", "no_plugin", "strict_plugins", "debug")
"""Options that most commands have; the page of commands lists them once."""


def write(folder: Path) -> None:
    """Write every generated part into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    plugins = Plugins()
    pages = {"recipe": recipe(plugins), "hooks": hooks(), "commands": commands()} | api.pages()
    pages |= {f"methods-{kind}": methods(plugins, kind) for kind in method_kinds(plugins)}
    pages["methods-tracker"] = trackers(plugins)
    for name, text in pages.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    for kind in TEMPLATES:
        (folder / f"scaffold_{kind.replace('-', '_')}.py").write_text(scaffold(kind), encoding="utf-8")


def recipe(plugins: Plugins) -> str:
    """Return the tables of a recipe, and the settings of every kind of stage."""
    parts = [
        _section("`[run]`", RunSettings),
        _section("`[plugins]`", PluginSettings),
        "### `[plugins.NAME]`\n\nOptions of a plugin that "
        "[brings hooks](../how-to/write-hooks.md#options-of-hooks).",
        "## `[task]`\n\n`use` names the [task](methods/task.md); every other key is an option of it.",
        f"## `[[stage]]`\n\nKeys of every stage:\n\n{_table(STAGE_KEYS)}",
    ]
    common = {field.name for field in attrs.fields(Stage)}
    for kind in plugins.names("stage"):
        cls = plugins.load("stage", kind)
        own = [option for option in describe(cls) if option.name not in common]
        method = f" `use` names [one of these](methods/{cls.method_kind}.md)." if cls.method_kind else ""
        parts.append(f'### `kind = "{kind}"`\n\n{_words(cls)}{method}\n\n{_options(own)}')
    parts.append(_section("`train`, `retrain`", Train))
    parts.append(_section("`rungs`", Rungs))
    parts.append(_section("`warm_start`", WarmStart))
    parts.append(_section("`filter`", Filter))
    parts.append(_section("`episodes`", EpisodeShape))
    parts.append(_section("Ranges", Range))
    parts.append(_section("`tune`", Tune))
    parts.append(_section("`student = { search = … }`", StudentSearch))
    parts.append(_section("`[run]` of a project file", ProjectRun))
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


def method_kinds(plugins: Plugins) -> list[str]:
    """List the kinds whose methods have a page of their own."""
    found = {plugin.kind for plugin in plugins.found} & set(KINDS)
    return [kind for kind in KINDS if kind in found and kind not in NO_PAGE]


def methods(plugins: Plugins, kind: str) -> str:
    """Return every registered method of a kind: its idea, where it comes from, and its options."""
    names = plugins.names(kind)
    classes = {name: plugins.load(kind, name) for name in names}
    rows = [f"| [`{name}`](#{name}) | {_words(cls)} |" for name, cls in classes.items()]
    parts = ["\n".join([f"| {kind} | |", "|---|---|", *rows])]
    for name, cls in classes.items():
        module = to_markdown(inspect.getdoc(inspect.getmodule(cls)) or "")
        options = _options(describe(cls)) or "It has no options."
        parts.append(f"## `{name}`\n\n{to_markdown(inspect.getdoc(cls) or '')}\n\n{module}\n\n{options}")
    return "\n\n".join(parts) + "\n"


def trackers(plugins: Plugins) -> str:
    """Return the installed plugins of hooks alone, which run when they are enabled."""
    parts = []
    for plugin in sorted(plugins.found, key=lambda plugin: plugin.name):
        if plugin.kind == HOOKS.name:
            words = to_markdown(inspect.getdoc(plugins.module_of(plugin)) or "")
            parts.append(f"## `{plugin.name}`\n\n{words}")
    return "\n\n".join(parts) + "\n"


def commands() -> str:
    """Return every command with what it does, its arguments and its options."""
    context = click.Context(cli, info_name=GROUP)
    parts = ["## Options of every command", _command_table(_every_option(context))]
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        parts += _command(click.Context(command, parent=context, info_name=name), "##")
    return "\n\n".join(parts) + "\n"


def _every_option(context: click.Context) -> list[click.Parameter]:
    group = [p for p in cli.params if p.name in ("debug", "version")]
    run = cli.get_command(context, "run")
    assert run is not None
    return [*(p for p in run.params if p.name in EVERYWHERE), *group]


def _command(context: click.Context, heading: str) -> Iterator[str]:
    command = context.command
    yield f"{heading} `{context.command_path}`"
    usage = f"{context.command_path} {' '.join(command.collect_usage_pieces(context))}"
    yield f"```console\n$ {usage}\n```"
    yield to_markdown(inspect.cleandoc(command.help or ""))
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    own = [p for p in options if p.name not in EVERYWHERE and "--help" not in p.opts]
    if own:
        yield _command_table(own)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(click.Context(inner, parent=context, info_name=name), heading + "#")


def _command_table(options: Iterable[click.Parameter]) -> str:
    lines = ["| option | meaning |", "|---|---|"]
    for option in options:
        assert isinstance(option, click.Option)
        context = click.Context(click.Command("any"))
        name, words = option.get_help_record(context) or ("", "")
        shown = name.replace("|", r"\|")
        lines.append(f"| `{shown}` | {to_markdown(words.replace('  ', ' '))} |")
    return "\n".join(lines)


def _hook(name: str, function: Any) -> str:
    options = getattr(function, f"{GROUP}_spec", {})
    first = "\n\nThe first result that is not None counts." if options.get("firstresult") else ""
    example = f"```python\n{hook_example(name)}```"
    text = f"{inspect.getdoc(function)}{first}\n\nExample:\n\n{example}"
    return f"## `{name}`\n\n```python\n{signature(function)}\n```\n\n{text}"


def hook_example(name: str) -> str:
    """Return an implementation of a hook: from the scaffold for methods, else from `hook_examples.py`.

    Tuners have no scaffold; theirs is learnforge's own.
    """
    own = getattr(hook_examples, name, None)
    if own is not None:
        return inspect.getsource(own)
    if name == "learnforge_tuners":
        return inspect.getsource(tuning.learnforge_tuners)
    text = scaffold(next(kind.name for kind in KINDS.values() if kind.hook == name))
    return text[text.index("@hookimpl") :]


def scaffold(kind: str) -> str:
    """Return the method that `learnforge new KIND mine` writes; the guides show it."""
    with tempfile.TemporaryDirectory() as folder:
        package = write_package(kind, "mine", Path(folder))
        return (package / "src" / "learnforge_mine" / "mine.py").read_text(encoding="utf-8")


def _section(title: str, cls: type) -> str:
    return f"## {title}\n\n{_words(cls)}\n\n{_options(describe(cls))}"


def _words(cls: type) -> str:
    """Return the first paragraph of a docstring."""
    return " ".join(to_markdown((inspect.getdoc(cls) or "").split("\n\n")[0]).split())


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
