"""Which plugins a run enables and refuses, and how every plugin stands by that choice.

There is one vocabulary: a plugin's name (`searcher.rl`, `tensorboard`), a distribution's, or both joined by a
colon (`my-package:searcher.rl`). There are five places to say it, each overruling those before it: the
project file, the recipe's `[plugins]` table, a `PluginChoice` in Python, the command line's `--plugin` and
`--no-plugin`, and the environment's LEARNFORGE_DISABLE_PLUGINS.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import evolve, field, frozen

from learnforge.errors import PluginError, PluginWarning, Problem, nearest
from learnforge.options.structure import structure
from learnforge.plugins.found import Plugin, missing_module
from learnforge.plugins.kinds import HOOKS, KINDS, RECIPE

if TYPE_CHECKING:
    from learnforge.plugins.sources import PluginFile

ENVIRONMENT = "LEARNFORGE_DISABLE_PLUGINS"
"""Environment variable with names to disable, separated by commas."""

Status = Literal["available", "loaded", "disabled", "failed", "duplicate", "incompatible"]


@frozen
class Wish:
    """What one place says.

    Args:
        where: The place, as messages name it.
        enable: Names to enable.
        disable: Names to disable.
        settings: {name of a plugin: its options}.
        is_general: Whether it speaks for all runs, so that a plugin to disable or to set up may be missing.
    """

    where: str
    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    settings: Mapping[str, Mapping[str, Any]] = {}
    is_general: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.enable or self.disable or self.settings)


def _as_tuple(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


def _read_files(files: Iterable[str | Path | PluginFile]) -> tuple[PluginFile, ...]:
    given = tuple(files)
    if not given:
        return ()
    from learnforge.plugins.sources import PluginFile  # most runs need none of it

    return tuple(PluginFile.read(file) for file in given)


@frozen
class PluginChoice:
    """Which plugins a run enables, refuses and loads from files: plain data, sent to worker processes.

    Args:
        enable: Names of plugins to load at the start. Methods load by themselves when a stage uses them.
        disable: Names of plugins or distributions that are refused before they are imported.
        files: Python files, or folders of them, to load as plugins; a recipe cannot name them.
        strict: Make every fault of a plugin that would be a warning an error.
        settings: {name of a hooks-only plugin: its options}, checked when it is loaded.
        beneath: What earlier places say, such as the project file.
        overrules: What later places say; each counts more than what stands before it.
        where: The place of `enable` and `disable`, as messages name it.
        has_environment: Whether the environment has been read into `overrules`, as in a worker's choice.
        is_tracing: Print every call of a plugin's hook on standard error, with its seconds.

    Raises:
        PluginError: A file cannot be read, or two files have the same name.
    """

    enable: tuple[str, ...] = field(default=(), converter=_as_tuple)
    disable: tuple[str, ...] = field(default=(), converter=_as_tuple)
    files: tuple[PluginFile, ...] = field(default=(), converter=_read_files)
    strict: bool = False
    settings: Mapping[str, Mapping[str, Any]] = {}
    beneath: tuple[Wish, ...] = ()
    overrules: tuple[Wish, ...] = ()
    where: str = "PluginChoice"
    has_environment: bool = False
    is_tracing: bool = False

    def __attrs_post_init__(self) -> None:
        names = [file.module for file in self.files]
        for name in names:
            if names.count(name) > 1:
                paths = " and ".join(file.path for file in self.files if file.module == name)
                raise PluginError(f"plugin files must have different names, got {paths}; rename one")

    def overruled(self, *wishes: Wish) -> PluginChoice:
        """Return the choice with what later places say."""
        return evolve(self, overrules=(*self.overrules, *(w for w in wishes if not w.is_empty)))

    def with_environment(self, environment: Mapping[str, str]) -> PluginChoice:
        """Return the choice with what LEARNFORGE_DISABLE_PLUGINS disables; asked twice, it is noted once."""
        if self.has_environment:
            return self
        names = tuple(name for word in environment.get(ENVIRONMENT, "").split(",") if (name := word.strip()))
        read = self.overruled(Wish(ENVIRONMENT, disable=names, is_general=True))
        return evolve(read, has_environment=True)

    @property
    def wishes(self) -> tuple[Wish, ...]:
        """All that is said, the last overruling."""
        own = Wish(self.where, self.enable, self.disable, self.settings)
        return (*self.beneath, own, *self.overrules)

    def options_of(self, name: str) -> dict[str, Any]:
        """Return the options of a hooks-only plugin; each is what the last place says that names it."""
        return {key: value for wish in self.wishes for key, value in wish.settings.get(name, {}).items()}

    def verdict(self, plugin: Plugin) -> tuple[Literal["enable", "disable"], str] | None:
        """Return what the last place that names an installed plugin says of it, and which place that is."""
        for wish in reversed(self.wishes):
            if any(plugin.is_named(word) for word in wish.disable):
                return "disable", wish.where
            if any(plugin.is_named(word) for word in wish.enable):
                return "enable", wish.where
        return None

    def overruled_by_environment(self, found: Sequence[Plugin]) -> list[tuple[Plugin, str]]:
        """List plugins that a run enables and the environment disables, with the place that enables them."""
        last = self.wishes[-1]
        if last.where != ENVIRONMENT:
            return []
        before = evolve(self, overrules=self.overrules[:-1])
        refused = [p for p in found if any(p.is_named(word) for word in last.disable)]
        verdicts = [(plugin, before.verdict(plugin)) for plugin in refused]
        return [(plugin, verdict[1]) for plugin, verdict in verdicts if verdict and verdict[0] == "enable"]

    def names_wholly(self, plugin: Plugin) -> bool:
        """Tell whether a place enables a plugin by `distribution:name`, which chooses among equal names."""
        words = [word for wish in self.wishes for word in wish.enable]
        return any(":" in word and plugin.is_named(word) for word in words)

    def check(self, found: Sequence[Plugin]) -> None:
        """Refuse names that mean nothing that is installed, and places that contradict themselves.

        Raises:
            PluginError: Naming the place, and the nearest match.
        """
        known = {word for p in found for word in (p.name, p.distribution, p.key)}
        for wish in self.wishes:
            for word in (*wish.enable, *wish.disable):
                if not any(plugin.is_named(word) for plugin in found):
                    methods = sorted({p.name for p in found if p.method == word})
                    alike = get_close_matches(word, {k for k in known if (":" in k) == (":" in word)}, n=1)
                    hint = f"did you mean {alike[0]!r}? " if alike else ""
                    own = word.rpartition(":")[0]
                    hint += f"pip install {own}" if own and not alike else "`learnforge plugins` lists all"
                    hint = f"did you mean {' or '.join(map(repr, methods))}?" if methods else hint
                    if Path(word).is_dir():
                        hint = f"for the folder, write ./{word}"
                    if self.files and word in wish.enable:
                        hint += "; what plugin files bring takes part without being enabled"
                    fault = f"{wish.where}: {word!r} is no installed plugin or distribution; {hint}"
                    if not wish.is_general or word in wish.enable:
                        raise PluginError(fault)
                    warnings.warn(fault, PluginWarning, stacklevel=2)
            for word in wish.enable:
                meant = [plugin for plugin in found if plugin.is_named(word)]
                if all(any(plugin.is_named(w) for w in wish.disable) for plugin in meant):
                    raise PluginError(
                        f"{wish.where}: {word!r} is both enabled and disabled; take it out of one list"
                    )


@frozen
class PluginSettings:
    """The table `[plugins]` of a recipe or project file, without the tables in it.

    Args:
        enable: Plugins to load at the start: those that only bring hooks, such as trackers. Methods load by
            themselves when a stage uses them.
        disable: Plugins or distributions to refuse before they are imported.
    """

    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()


def read_wish(table: Any, where: str, problems: list[Problem]) -> Wish | None:
    """Read a table `[plugins]`: names to enable and disable, and under other keys the options of plugins."""
    tables = {k: v for k, v in table.items() if isinstance(v, Mapping)} if isinstance(table, Mapping) else {}
    own = {k: v for k, v in table.items() if k not in tables} if isinstance(table, Mapping) else table
    for name, options in tables.items():
        # other values of TOML, such as dates, are no options
        plain = all(isinstance(v, (bool, int, float, str, list, Mapping)) for v in options.values())
        if not plain:
            problems.append(Problem(f"plugins.{name}", "must hold numbers, texts, lists and tables"))
    names = structure(PluginSettings, own, "plugins", problems)
    return None if names is None else Wish(where, names.enable, names.disable, tables)


@frozen
class Standing:
    """How a plugin stands.

    Args:
        plugin: The plugin.
        status: Its status.
        reason: Why, where it cannot be used.
    """

    plugin: Plugin
    status: Status
    reason: str = ""

    def __str__(self) -> str:
        """Say it in words, such as `plugin 'searcher.rl' of mine 1.0 is disabled by the command line`."""
        return f"{self.plugin} is {self.status}{' ' if self.status == 'disabled' else ': '}{self.reason}"


def survey(found: Sequence[Plugin], choice: PluginChoice) -> tuple[Standing, ...]:
    """Tell how every installed plugin stands, from metadata alone: none is imported."""
    usable = [plugin for plugin in found if is_usable(plugin, choice)]
    return tuple(_standing(plugin, choice, usable) for plugin in found)


def is_usable(plugin: Plugin, choice: PluginChoice) -> bool:
    """Tell whether a plugin is neither disabled nor incompatible."""
    verdict = choice.verdict(plugin)
    return not plugin.incompatible and (verdict is None or verdict[0] == "enable")


def _standing(plugin: Plugin, choice: PluginChoice, usable: Sequence[Plugin]) -> Standing:
    verdict = choice.verdict(plugin)
    if verdict is not None and verdict[0] == "disable":
        return Standing(plugin, "disabled", f"by {verdict[1]}")
    if plugin.incompatible:
        return Standing(plugin, "incompatible", plugin.incompatible)
    others = [p for p in usable if p.name == plugin.name and p is not plugin]
    if others:
        words = f'{others[0].distribution} brings it too; choose with "{plugin.distribution}:{plugin.method}"'
        return Standing(plugin, "duplicate", words)
    missing = missing_module(plugin)
    if missing:
        return Standing(plugin, "failed", missing)
    if plugin.kind in (*KINDS, HOOKS.name, RECIPE):
        return Standing(plugin, "available")
    hint = nearest(plugin.kind, KINDS)
    return Standing(plugin, "available", f"{plugin.kind!r} must be a kind that another plugin brings; {hint}")


def beside(standing: Standing, usable: Sequence[Plugin]) -> Standing:
    """Return how a plugin stands beside files, which may bring a method of its name too."""
    plugin = standing.plugin
    others = [p for p in usable if p.name == plugin.name and p is not plugin]
    if plugin not in usable or plugin.kind == "hooks" or not others:
        return standing
    reason = f'{others[0].distribution} brings it too; choose with "{plugin.distribution}:{plugin.method}"'
    return evolve(standing, status="duplicate", reason=reason)
