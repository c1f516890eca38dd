"""`learnforge describe`."""

from __future__ import annotations

from pathlib import Path

import click

from learnforge.cli.options import plugin_options
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice


@click.group("describe", short_help="Show what a space holds.")
def command() -> None:
    """Show what something that a plugin brings holds."""


@command.command("space")
@click.argument("space")
@click.option("--shape", default="3x32x32", show_default=True, help="Channels, height and width of an image.")
@click.option("--classes", type=click.IntRange(1), default=10, show_default=True, help="Number of classes.")
@click.option(
    "--samples", type=click.IntRange(1), default=3, show_default=True, help="Random designs to show."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the samples.")
@click.option(
    "--layers",
    type=click.Path(path_type=Path),
    help="Time the layers of --samples random designs here, and add them to this file for `cost.lookup`.",
)
@plugin_options
def space_command(
    choice: PluginChoice,
    space: str,
    shape: str,
    classes: int,
    samples: int,
    seed: int,
    layers: Path | None,
) -> None:
    """Print the size of SPACE, its choices, and random designs with their costs; nothing is trained.

    SPACE is a name, or a table as in a recipe: '{ use = "residual", max_width = 32 }'.
    """
    from learnforge.plugins.registry import Plugins
    from learnforge_plugins.reports.table import show_rows
    from learnforge_plugins.stages.search.describe import describe_space, make_info, parse_space, time_space

    plugins = Plugins(choice)
    made = parse_space(space, plugins)
    info = make_info(shape, classes)
    if layers is not None:
        added, total = time_space(made, info, layers, samples, seed)
        click.echo(f"{layers}: {added} layers timed, {total} in all")
        return
    found = describe_space(made, info, samples, seed)
    click.echo(f"{space}: {found.size_words}")
    click.echo(f"costs are for images of {shape} and {classes} classes (--shape, --classes)\n")
    show_rows("choices", ("name", "values", "asked"), found.choices, wrapped="values")
    show_rows(
        f"random designs, seed {seed}",
        ("design", "parameters", "macs", "activations"),
        found.samples,
        "design",
    )


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge describe`."""
    return {"describe": command}
