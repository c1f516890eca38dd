"""Options that several commands share: which plugins there are, and how a recipe is changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import click

from learnforge.plugins.choice import PluginChoice

PLACE = "the command line"


def plugin_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--plugin`, `--no-plugin` and `--strict-plugins`; the command gets them as one `choice`.

    The same options may stand before the command's name; both are heard.
    """

    @wraps(function)
    def command(
        plugin_words: Sequence[str], no_plugin: Sequence[str], strict_plugins: bool, **given: Any
    ) -> Any:
        outer = click.get_current_context().find_root().params
        words = (*outer.get("group_plugin_words", ()), *plugin_words)
        disable = (*outer.get("group_no_plugin", ()), *no_plugin)
        is_strict = strict_plugins or outer.get("group_strict_plugins", False)
        return function(choice=read_choice(words, disable, is_strict), **given)

    decorated: Callable[..., Any] = add_plugin_options(command)
    return decorated


def add_plugin_options(function: Callable[..., Any], prefix: str = "", **settings: Any) -> Any:
    """Add the three options to a command or group.

    Args:
        function: What is decorated.
        prefix: Put before the parameters' names.
        settings: Further settings of each option, as click takes them.
    """
    for name, parameter, words in reversed(_PLUGIN_OPTIONS):
        form: Any = (
            {"is_flag": True} if name == "--strict-plugins" else {"multiple": True, "metavar": _METAVAR[name]}
        )
        function = click.option(name, prefix + parameter, help=words, **form, **settings)(function)
    return function


_METAVAR = {"--plugin": "FILE|NAME", "--no-plugin": "NAME"}


_PLUGIN_OPTIONS = (
    ("--plugin", "plugin_words", "Load a Python file as a plugin, or enable an installed one."),
    ("--no-plugin", "no_plugin", "Refuse a plugin or distribution."),
    ("--strict-plugins", "strict_plugins", "Make every fault of a plugin an error."),
)


def read_choice(words: Sequence[str], disable: Sequence[str], is_strict: bool) -> PluginChoice:
    """Return what the command line says of plugins: words that look like paths are files, others names."""
    files = [word for word in words if _is_path(word)]
    names = [word for word in words if not _is_path(word)]
    return PluginChoice(names, disable, files, is_strict, where=PLACE)


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
