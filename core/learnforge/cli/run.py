"""`learnforge run`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from learnforge.cli.options import recipe_options
from learnforge.plugins.choice import PluginChoice


@click.command("run", short_help="Run a recipe, or go on with it.")
@recipe_options
@click.option(
    "--run", "folder", type=click.Path(path_type=Path), help="Folder of the run; runs/NAME by default."
)
@click.option("--workers", type=click.IntRange(1), help="Trials of a search at a time; 1 by default.")
@click.option(
    "--cache",
    "cache_folder",
    type=click.Path(path_type=Path),
    help="Folder for teacher caches, which runs share; .cache beside the run by default.",
)
@click.option(
    "--overwrite", is_flag=True, help="Run finished stages again where what they depend on has changed."
)
def command(
    recipe: str,
    overrides: Sequence[str],
    choice: PluginChoice,
    folder: Path | None,
    workers: int | None,
    cache_folder: Path | None,
    overwrite: bool,
) -> None:
    """Run RECIPE: a TOML file, or the name of a built-in recipe such as digits.

    A run that exists goes on where it stopped; what is finished and unchanged is kept. A project file,
    learnforge.toml, says for all runs which plugins take part, where runs are kept, and how many workers
    and which cache they use.
    """
    from learnforge.plugins.project import read_project
    from learnforge.plugins.registry import Plugins
    from learnforge.recipe import find_recipe, parse_recipe, plugin_choice, read_recipe
    from learnforge.runner import Options, offered_progress, run_recipe, show_run

    path = find_recipe(recipe)
    data = read_recipe(path, overrides)
    plugins = Plugins(plugin_choice(data, choice, str(recipe)))
    parsed = parse_recipe(data, plugins, str(recipe))
    project = read_project().run
    folder = folder or project.folder / parsed.run.name
    options = Options(
        folder,
        workers or project.workers,
        cache_folder or project.cache,
        offered_progress(plugins, is_command=True),
        lambda names: overwrite or _ask(folder, names),
    )
    run = run_recipe(parsed, plugins, options)
    plugins.load_hooks("report")
    show_run(run)


def _ask(folder: Path, names: Sequence[str]) -> bool:
    """Ask on a terminal whether finished stages may be run again; without one the answer is no."""
    if not sys.stdin.isatty():
        return False
    question = f"{folder}: run the finished stages {', '.join(names)} again, and lose what they made?"
    return bool(click.confirm(question))
