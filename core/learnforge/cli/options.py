"""Options that several commands share: which plugins there are, and how a recipe is changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

from learnforge.plugins.choice import PluginChoice
from learnforge.plugins.project import read_project

PLACE = "the command line"


def plugin_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--plugin` and its like; the command gets them, and the project file's, as one `choice`.

    The same options may stand before the command's name; both are heard.
    """

    @wraps(function)
    def command(**given: Any) -> Any:
        own = {parameter: given.pop(parameter) for _, parameter, _ in _PLUGIN_OPTIONS}
        outer = click.get_current_context().find_root().params
        both = {key: outer.get(f"group_{key}", type(value)()) + value for key, value in own.items()}
        return function(choice=read_choice(**both), **given)

    decorated: Callable[..., Any] = add_plugin_options(command)
    return decorated


def add_plugin_options(function: Callable[..., Any], prefix: str = "", **settings: Any) -> Any:
    """Add the options about plugins to a command or group.

    Args:
        function: What is decorated.
        prefix: Put before the parameters' names.
        settings: Further settings of each option, as click takes them.
    """
    for name, parameter, words in reversed(_PLUGIN_OPTIONS):
        form: Any = {"multiple": True, "metavar": _METAVAR[name]} if name in _METAVAR else {"is_flag": True}
        function = click.option(name, prefix + parameter, help=words, **form, **settings)(function)
    return function


_METAVAR = {"--plugin": "FILE|FOLDER|NAME", "--no-plugin": "NAME"}

_PLUGIN_OPTIONS = (
    ("--plugin", "plugin_words", "Load a Python file or folder as a plugin, or enable an installed one."),
    ("--no-plugin", "no_plugin", "Refuse a plugin or distribution."),
    ("--strict-plugins", "strict_plugins", "Make every fault of a plugin an error."),
    ("--trace-hooks", "trace_hooks", "Print every call of a plugin's hook, with its seconds."),
)


def read_choice(
    plugin_words: Sequence[str] = (),
    no_plugin: Sequence[str] = (),
    strict_plugins: bool = False,
    trace_hooks: bool = False,
    has_project: bool = True,
) -> PluginChoice:
    """Return what the command line and the project file say of plugins: words that look like paths are
    files, others names.
    """
    files = [word for word in plugin_words if _is_path(word)]
    names = [word for word in plugin_words if not _is_path(word)]
    strict, trace = bool(strict_plugins), bool(trace_hooks)
    own = PluginChoice(names, no_plugin, files, strict, where=PLACE, is_tracing=trace)
    return read_project().below(own) if has_project else own


def recipe_options(function: Callable[..., Any]) -> Any:
    """Add the argument and options that every command on recipes takes."""
    overrides = click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a value: stage.search.trials=50.",
    )
    return click.argument("recipe")(overrides(plugin_options(function)))


def _is_path(word: str) -> bool:
    return word.endswith(".py") or "/" in word or os.sep in word
