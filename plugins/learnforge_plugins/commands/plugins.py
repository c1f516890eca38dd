"""`learnforge plugins`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from learnforge.cli.options import plugin_options
from learnforge.errors import PluginError, nearest
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice, Standing, survey
from learnforge.plugins.found import Plugin, installed
from learnforge.plugins.kinds import KINDS, RECIPE

COLUMNS = ("kind", "name", "distribution", "version", "status", "reason")


_COLOURS = {"available": "green", "loaded": "green", "disabled": "yellow"}

_NOT_MEANT = (RECIPE, "command", "tuner")
"""Kinds that a short name means only where no method has it: none of them is chosen by `use`."""


@click.command("plugins", short_help="List the plugins that are installed, without importing them.")
@click.argument("name", required=False)
@click.option("--kind", help="Only this kind, such as searcher.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@plugin_options
def command(choice: PluginChoice, name: str | None, kind: str | None, as_json: bool) -> None:
    """List every plugin: kind, name, the distribution that brings it, and how it stands.

    With NAME, such as distiller.kd, import that one and show its docstring, options, hooks and import time.
    """
    standings = list_standings(choice)
    if name is not None:
        _show(find_plugin(name, kind, standings), choice, as_json)
        return
    kinds = {*KINDS, "hooks", *(standing.plugin.kind for standing in standings)}
    if kind is not None and kind not in kinds:
        raise PluginError(f"no plugin is of the kind {kind!r}; {nearest(kind, kinds)}")
    rows = [_as_data(standing) for standing in standings if kind in (None, standing.plugin.kind)]
    click.echo(json.dumps(rows, indent=1) if as_json else _table(rows))


def list_standings(choice: PluginChoice) -> tuple[Standing, ...]:
    """Read the metadata; only files that the command line names are run."""
    if choice.files or choice.enable:
        from learnforge.plugins.registry import Plugins

        return Plugins(choice).standings()
    choice = choice.with_environment(os.environ)
    found = installed()
    choice.check(found)
    return survey(found, choice)


def _as_data(standing: Standing) -> dict[str, str]:
    plugin = standing.plugin
    values = plugin.kind, plugin.method, plugin.distribution, plugin.version, standing.status, standing.reason
    return dict(zip(COLUMNS, values, strict=True))


def _table(rows: Sequence[dict[str, Any]]) -> str:
    """Line the columns up; rich, which would do it too, takes longer to import than all the rest."""
    widths = [max(map(len, (column, *(row[column] for row in rows)))) for column in COLUMNS[:-1]]
    lines = ["  ".join(word.ljust(width) for word, width in zip(COLUMNS, [*widths, 0], strict=True)).rstrip()]
    for row in rows:
        cells = [row[column].ljust(width) for column, width in zip(COLUMNS, [*widths, 0], strict=False)]
        cells[4] = click.style(cells[4], fg=_COLOURS.get(row["status"], "red"))
        lines.append("  ".join([*cells[:5], row["reason"]]).rstrip())
    return "\n".join(lines)


def find_plugin(name: str, kind: str | None, standings: Sequence[Standing]) -> Plugin:
    """Find a plugin by `kind.name`, `name`, or either after `distribution:`.

    Raises:
        PluginError: There is none, or several.
    """
    owner, _, short = name.rpartition(":")
    found = [
        standing.plugin
        for standing in standings
        if short in (standing.plugin.name, standing.plugin.method)
        and kind in (None, standing.plugin.kind)
        and (not owner or standing.plugin.is_of(owner))
    ]
    if not found:
        known = [s.plugin.name if "." in short else s.plugin.method for s in standings]
        raise PluginError(f"there is no plugin {name!r}; {nearest(name, known)}")
    if len(found) > 1 and "." not in short:
        found = [p for p in found if p.kind not in _NOT_MEANT] or found
    if len(found) > 1:  # a file may be called like the method in it, which is what is meant
        found = [p for p in found if p.kind != "hooks" or p.entry_point is not None] or found
    if len(found) > 1:
        names = [plugin.name for plugin in found]
        words = names if len(set(names)) == len(names) else [plugin.key for plugin in found]
        raise PluginError(f"{name!r} is the name of {len(found)} plugins; say {' or '.join(words)}")
    return found[0]


def _show(plugin: Plugin, choice: PluginChoice, as_json: bool) -> None:
    from learnforge.plugins.registry import Plugins
    from learnforge_plugins.commands.plugin_card import describe_plugin, print_card

    card = describe_plugin(plugin, Plugins(choice))
    if as_json:
        click.echo(json.dumps(card, indent=1))
    else:
        print_card(card)


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge plugins`."""
    return {"plugins": command}
