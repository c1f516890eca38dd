"""`learnforge report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from learnforge.cli.options import plugin_options
from learnforge.discovery import PluginChoice

if TYPE_CHECKING:
    from learnforge.report import Section


@click.command("report", short_help="Write a run's report anew.")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    default=Path("comparison.html"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="File for the comparison of several runs.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON of a script by `learnforge profile`: show what the device took; may be given again.",
)
@plugin_options
def command(
    choice: PluginChoice, folders: tuple[Path, ...], target: Path, profiles: tuple[Path, ...]
) -> None:
    """Write report.html and report.md of the run in a folder, also while it still runs, and show its table.

    Plugins that the recipe enables write their sections again; name plugin files again with --plugin. With
    several FOLDERS, compare their runs: what each stage came to, and where they differ in what they were
    told.
    """
    from learnforge.files import write_text
    from learnforge.report.compare import compare_runs
    from learnforge.report.device import read_profile
    from learnforge.report.write import page_html, page_markdown

    devices = [read_profile(file) for file in profiles]
    if len(folders) > 1:
        from learnforge.report import read_summary

        sections = [*compare_runs([read_summary(folder) for folder in folders]), *devices]
        title = "Comparison of " + ", ".join(map(str, folders))
        write_text(target, page_html(title, "learnforge report", sections))
        click.echo(page_markdown(title, sections))
        click.echo(target)
        return
    _write_one(choice, folders[0], devices)


def _write_one(choice: PluginChoice, folder: Path, devices: Sequence[Section]) -> None:
    from learnforge.cli.table import show_run
    from learnforge.plugins import Plugins
    from learnforge.recipe import plugin_choice, read_recipe
    from learnforge.report import Section, read_summary
    from learnforge.report.write import write_report

    summary = read_summary(folder)
    recipe = folder / "recipe.toml"
    data = read_recipe(recipe) if recipe.is_file() else {}
    plugins = Plugins(plugin_choice(data, choice, str(recipe)))
    own = plugins.gather("learnforge_report_sections", Section, run=summary)
    show_run(write_report(folder, [*devices, *own]))
