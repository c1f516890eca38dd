"""`learnforge plugins`."""

from __future__ import annotations

import click


@click.command("plugins", short_help="List the plugins that are installed, without importing them.")
@click.option("--kind", help="Only this kind, such as searcher.")
def command(kind: str | None) -> None:
    """List every installed plugin: kind, name, and the distribution that brings it."""
    from rich.console import Console
    from rich.table import Table

    from learnforge.errors import PluginError, nearest
    from learnforge.plugins import installed

    found = installed()
    kinds = {plugin.kind for plugin in found}
    if kind is not None and kind not in kinds:
        raise PluginError(f"no plugin is of the kind {kind!r}; {nearest(kind, kinds)}")
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "name", "distribution", "version"):
        table.add_column(column)
    for plugin in found:
        if kind in (None, plugin.kind):
            table.add_row(plugin.kind, plugin.method, plugin.distribution, plugin.version)
    Console().print(table)
