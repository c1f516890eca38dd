"""Finds the suite of a plugin by its kind, and runs it; what `learnforge conformance NAME` does."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from learnforge.errors import PluginError, nearest
from learnforge.plugins.found import Plugin
from learnforge.plugins.kinds import HOOKS, KINDS
from learnforge.plugins.registry import Plugins
from learnforge_testing.suite import Suite


def suite_name(kind: str) -> str:
    """Return the name of the suite of a kind."""
    return "".join(part.capitalize() for part in kind.split("-")) + "Suite"


WITHOUT_SUITE = frozenset({"tuner"})
"""Kinds whose methods no suite holds to anything yet."""
SUITES = {
    kind.name: suite_name(kind.name) for kind in (*KINDS.values(), HOOKS) if kind.name not in WITHOUT_SUITE
}
"""The suite of each kind, in the module of `learnforge_testing.suites` that is called like the kind; that of
hooks, which are no method, beside them."""


def suite_of(kind: str) -> type[Suite]:
    """Import the suite of a kind.

    Raises:
        PluginError: There is none.
    """
    if kind not in SUITES:
        raise PluginError(f"there is no conformance suite for the kind {kind!r}; {nearest(kind, SUITES)}")
    home = "learnforge_testing" if kind == HOOKS.name else "learnforge_testing.suites"
    module = importlib.import_module(f"{home}.{kind.replace('-', '_')}")
    found: type[Suite] = getattr(module, SUITES[kind])
    return found


def make_suite(plugin: Plugin, plugins: Plugins, options: Mapping[str, Any]) -> type[Suite]:
    """Return the suite for one plugin.

    Args:
        plugin: What to check.
        plugins: Loads it.
        options: Options to make the method with; keys of its table for a stage.

    Raises:
        PluginError: It cannot be loaded, or its kind has no suite.
    """
    base = suite_of(plugin.kind)
    if plugin.kind == "hooks":
        return base.of(plugin.name, options, files=_files(plugin, plugins))
    method = plugins.load(plugin.kind, f"{plugin.distribution}:{plugin.method}")
    files = {"files": _files(plugin, plugins)} if hasattr(base, "files") else {}
    if inspect.isclass(method) or plugin.kind == "command":
        return base.fitting(method).of(method, options, **files)
    raise PluginError(f"{plugin}: {plugin.method!r} must be a class, got {method!r}")


def _files(plugin: Plugin, plugins: Plugins) -> tuple[Path, ...]:
    """Return the plugin files, where the plugin is from one."""
    return tuple(Path(file.path) for file in plugins.choice.files) if plugin.entry_point is None else ()
