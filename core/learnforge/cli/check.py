"""`learnforge check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from learnforge.cli.run import recipe_options


@click.command("check", short_help="Find every error in a recipe without training anything.")
@recipe_options
def command(recipe: str, overrides: Sequence[str], files: Sequence[Path], disable: Sequence[str]) -> None:
    """Check RECIPE: names, types, ranges, references, data, and whether networks fit their tasks."""
    from learnforge.plugins import Plugins
    from learnforge.recipe import Tasks, check_recipe, find_recipe, parse_recipe, plugin_choice, read_recipe

    data = read_recipe(find_recipe(recipe), overrides)
    plugins = Plugins(plugin_choice(data, files, disable))
    parsed = parse_recipe(data, plugins, recipe)
    check_recipe(parsed, plugins, Tasks(), recipe)
    click.echo(f"{recipe}: {len(parsed.stages)} stages, no error")
