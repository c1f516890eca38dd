"""`learnforge cite`."""

from __future__ import annotations

from pathlib import Path

import click

from learnforge.cli.options import plugin_options
from learnforge.discovery import PluginChoice


@click.command("cite", short_help="Write the papers behind a run's methods as BibTeX.")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@plugin_options
def command(choice: PluginChoice, folder: Path) -> None:
    """Write the papers behind the methods of the run in FOLDER as BibTeX, as their files name them."""
    import sys

    from learnforge.citations import write_bibtex
    from learnforge.errors import PluginError
    from learnforge.plugins import Plugins
    from learnforge.report import read_summary

    plugins, docs = Plugins(choice), []
    for entry in read_summary(folder).plugins.get("loaded", ()):
        kind, dot, method = entry["name"].partition(".")
        if not dot:
            continue
        try:
            docs.append(sys.modules[plugins.load(kind, method).__module__].__doc__ or "")
        except PluginError as error:
            click.echo(f"left out: {entry['name']}: {error}", err=True)
    text = write_bibtex(docs)
    click.echo(text or "the methods of this run name no paper", nl=not text)
