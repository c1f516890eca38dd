"""`learnforge new`."""

from __future__ import annotations

from pathlib import Path

import click

from learnforge.hookspecs import hookimpl


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

    KIND is task, form, space, model, searcher, evaluator, score, cost, table, executor, distiller,
    transfer, validator, meta-learner, optimizer, change, exporter, stage, command or hooks; NAME is how
    recipes will call it, such as my-method. Several kinds joined by commas, such as form,model, make one
    package with a plugin of each.
    """
    from learnforge.cli.group import BUILT_IN
    from learnforge.errors import PluginError
    from learnforge.plugins.found import installed
    from learnforge.plugins.kinds import GROUP
    from learnforge_testing.scaffold.package import TEMPLATES, point_of, write_package

    own = {p.method for p in installed() if p.kind == "command" and p.is_of(GROUP)}
    if "command" in kind.split(",") and name in own | set(BUILT_IN):
        raise PluginError(f"`learnforge {name}` is a command of learnforge's own; choose another name")
    folder = write_package(kind, name, parent)
    kinds = kind.split(",")
    points = [point_of(own, name) for own in kinds]
    words = " and a working ".join(TEMPLATES[own].words for own in kinds)
    click.echo(f"{folder} holds a working {words}. Make it yours:")
    shown = [f"learnforge plugins {point}" for point in points]
    for line in (f"cd {folder}", 'pip install -e ".[test]"', *shown, "pytest"):
        click.echo(f"    {line}")
    for plugin in installed():
        if plugin.name in points:
            point = plugin.name
            both = f"`learnforge-{name}:{name}` or `{plugin.distribution}:{name}`"
            click.echo(f"{plugin.distribution} brings {point!r} too: recipes will have to say {both}")


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge new`."""
    return {"new": command}
