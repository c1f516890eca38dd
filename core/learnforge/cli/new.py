"""`learnforge new`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("new", short_help="Write a package for a plugin of one's own.")
@click.argument("kind")
@click.argument("name")
@click.option(
    "--to",
    "parent",
    type=click.Path(path_type=Path),
    default=Path(),
    help="Where the package's folder is made; here by default.",
)
def command(kind: str, name: str, parent: Path) -> None:
    """Write a complete package for a plugin, which installs and whose tests pass as they are.

    KIND is searcher, distiller, transfer, meta-learner, space, model, task, exporter, executor, score, cost,
    table, stage, command or hooks; NAME is how recipes will call it, such as my-method.
    """
    from learnforge.cli.group import BUILT_IN
    from learnforge.discovery import installed
    from learnforge.errors import PluginError
    from learnforge.scaffold import TEMPLATES, write_package

    if kind == "command" and name in BUILT_IN:
        raise PluginError(f"`learnforge {name}` is a command of learnforge's own; choose another name")
    folder = write_package(kind, name, parent)
    point = name if kind == "hooks" else f"{kind}.{name}"
    click.echo(f"{folder} holds a working {TEMPLATES[kind].what}. Make it yours:")
    for line in (f"cd {folder}", 'pip install -e ".[test]"', f"learnforge plugins {point}", "pytest"):
        click.echo(f"    {line}")
    for plugin in installed():
        if plugin.name == point:
            both = f"`learnforge-{name}:{name}` or `{plugin.distribution}:{name}`"
            click.echo(f"{plugin.distribution} brings {point!r} too: recipes will have to say {both}")
