"""What `learnforge plugins NAME` shows of one plugin, after importing it."""

from __future__ import annotations

import inspect
import sys
import time
from typing import Any

import attrs
from attrs import asdict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from learnforge.plugins.found import Plugin
from learnforge.plugins.kinds import HOOKS, RECIPE
from learnforge.plugins.registry import Plugins
from learnforge_kit.description import describe


def describe_plugin(plugin: Plugin, plugins: Plugins) -> dict[str, Any]:
    """Import a plugin and return what there is to say of it, as JSON-able data.

    Raises:
        PluginError: It cannot be used.
    """
    target: Any = None
    start = time.perf_counter()
    if plugin.kind not in (HOOKS.name, RECIPE):
        target = plugins.load(plugin.kind, f"{plugin.distribution}:{plugin.method}")
    module = sys.modules[target.__module__] if inspect.isclass(target) else plugins.module_of(plugin)
    seconds = time.perf_counter() - start
    if not inspect.ismodule(module):  # hooks with options are an object
        target = type(module)
        module = sys.modules[target.__module__]
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": module.__name__,
        "import_seconds": round(seconds, 3),
        "docstring": (inspect.getdoc(target) if inspect.isclass(target) else "") or "",
        "about": inspect.getdoc(module) or "",
        "options": [asdict(o) for o in describe(target)]
        if inspect.isclass(target) and attrs.has(target)
        else [],
        "hooks": plugins.hooks_of(plugin),
    }


def print_card(card: dict[str, Any]) -> None:
    """Print a plugin's card."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    owner = f"{card['distribution']} {card['version']}"
    console.print(f"[bold]{escape(card['name'])}[/bold]  {escape(owner)}  {card['module']}")
    console.print(f"imported in {card['import_seconds']:.2f} s, with all that it imports; {_hooks(card)}\n")
    for text in (card["docstring"], card["about"]):
        if text:
            console.print(escape(text) + "\n")
    if card["options"]:
        console.print(_options(card["options"]))


def _hooks(card: dict[str, Any]) -> str:
    return "hooks: " + (", ".join(card["hooks"]) or "none")


def _options(options: list[dict[str, str]]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("option", "type", "range", "default", "meaning"):
        table.add_column(column, overflow="fold")
    for option in options:
        cells = (option["name"], option["type"], option["range"], option["default"], option["words"])
        table.add_row(*map(escape, cells))
    return table
