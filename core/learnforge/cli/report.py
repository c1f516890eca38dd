"""`learnforge report`."""

from __future__ import annotations

from pathlib import Path

import click

from learnforge.cli.options import plugin_options
from learnforge.discovery import PluginChoice


@click.command("report", short_help="Write a run's report anew.")
@click.argument("folder", type=click.Path(path_type=Path))
@plugin_options
def command(choice: PluginChoice, folder: Path) -> None:
    """Write report.html and report.md of the run in FOLDER, also while it still runs, and show its table.

    Plugins that the recipe enables write their sections again; name plugin files again with --plugin.
    """
    from learnforge.cli.table import show_run
    from learnforge.plugins import Plugins
    from learnforge.recipe import plugin_choice, read_recipe
    from learnforge.report import Section, read_summary
    from learnforge.report.write import write_report

    summary = read_summary(folder)
    recipe = folder / "recipe.toml"
    data = read_recipe(recipe) if recipe.is_file() else {}
    plugins = Plugins(plugin_choice(data, choice, str(recipe)))
    show_run(write_report(folder, plugins.gather("learnforge_report_sections", Section, run=summary)))
