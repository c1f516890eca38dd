"""`learnforge cite`."""

from __future__ import annotations

from pathlib import Path

import click

from learnforge.cli.options import plugin_options
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice


@click.command("cite", short_help="Write the papers behind a run's methods as BibTeX.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@plugin_options
def command(choice: PluginChoice, folder: Path) -> None:
    """Write the papers behind the methods of the run in FOLDER as BibTeX, as their files name them."""
    import sys

    from learnforge.errors import PluginError
    from learnforge.plugins.registry import Plugins
    from learnforge_plugins.commands.citations import write_bibtex
    from learnforge_plugins.reports.progress import read_run

    plugins, docs = Plugins(choice), []
    for entry in read_run(folder).plugins.get("loaded", ()):
        kind, dot, method = entry["name"].partition(".")
        if not dot:
            continue
        try:
            docs.append(sys.modules[plugins.load(kind, method).__module__].__doc__ or "")
        except PluginError as error:
            click.echo(f"left out: {entry['name']}: {error}", err=True)
    text = write_bibtex(docs)
    click.echo(text or "the methods of this run name no paper", nl=not text)


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge cite`."""
    return {"cite": command}
