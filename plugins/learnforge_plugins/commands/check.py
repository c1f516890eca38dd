"""`learnforge check`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from learnforge.cli.options import recipe_options
from learnforge.errors import PluginError, Problem, RecipeError
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice


@click.command(
    "check", short_help="Find every error in a recipe, or tell whether a run can be reproduced here."
)
@recipe_options
def command(recipe: str, overrides: Sequence[str], choice: PluginChoice) -> None:
    """Check RECIPE: names, types, ranges, references, data, and whether networks fit their tasks.

    For the folder of a run: tell whether this environment can reproduce it; exit status 1 if it cannot.
    """
    if (Path(recipe) / "run.json").is_file():
        if overrides:
            raise RecipeError([Problem("", "a run is checked as it was made")], "--set")
        _check_run(Path(recipe), choice)
    else:
        _check_recipe(recipe, overrides, choice)


def _check_recipe(recipe: str, overrides: Sequence[str], choice: PluginChoice) -> None:
    import torch

    from learnforge.check import Tasks, check_recipe
    from learnforge.plugins.registry import Plugins
    from learnforge.recipe import find_recipe, parse_recipe, plugin_choice, read_recipe

    data = read_recipe(find_recipe(recipe), overrides)
    plugins = Plugins(plugin_choice(data, choice, recipe))
    parsed = parse_recipe(data, plugins, recipe)
    if parsed.run.device != "auto":
        try:
            torch.device(parsed.run.device)  # which may be another machine's
        except RuntimeError as error:
            fault = f"must be `auto` or a device as torch spells it: {str(error).splitlines()[0]}"
            raise RecipeError([Problem("run.device", fault)], recipe) from error
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks see two images: more threads would wait for each other
    try:
        check_recipe(parsed, plugins, Tasks())
    finally:
        torch.set_num_threads(threads)
    count = f"{len(parsed.stages)} stage{'s' if len(parsed.stages) > 1 else ''}"
    click.echo(f"{recipe}: {count}, no error")


def _check_run(folder: Path, choice: PluginChoice) -> None:
    from learnforge.plugins.registry import Plugins

    plugins = Plugins(choice)
    if not plugins.load_hooks("report"):
        raise PluginError("the plugin 'report' compares runs, and it is disabled; enable it")
    said = plugins.hook.learnforge_check_run(folder=folder, choice=choice)
    differences = [d for each in said for d in ([each] if isinstance(each, str) else each)]
    for difference in differences:
        click.echo(f"  {difference}")
    if differences:
        count = f"{len(differences)} difference{'s' if len(differences) > 1 else ''}"
        click.echo(f"{folder}: cannot be reproduced bit for bit here, {count}")
        sys.exit(1)
    click.echo(f"{folder}: can be reproduced here")


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge check`."""
    return {"check": command}
