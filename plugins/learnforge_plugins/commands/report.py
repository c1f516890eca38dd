"""`learnforge report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from learnforge.cli.options import plugin_options
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice


@click.command("report", short_help="Write a run's report anew.")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the page; report.html in the run's folder, or comparison.html here.",
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON of a script by `learnforge profile`: show what the device took, also in later reports of "
    "one run; may be given again.",
)
@plugin_options
def command(
    choice: PluginChoice, folders: tuple[Path, ...], target: Path | None, profiles: tuple[Path, ...]
) -> None:
    """Write report.html and report.md of the run in a folder, also while it still runs, and show its table.

    Plugins that the recipe enables write their sections again; name plugin files again with --plugin. With
    several FOLDERS, compare their runs: what each stage came to, and where their settings differ.
    """
    if len(folders) == 1:
        _write_one(choice, folders[0], target, profiles)
    else:
        _compare(folders, target or Path("comparison.html"), profiles)


def _compare(folders: Sequence[Path], target: Path, profiles: Sequence[Path]) -> None:
    from learnforge.files import write_text
    from learnforge_plugins.reports.compare import compare_runs
    from learnforge_plugins.reports.device import read_profile
    from learnforge_plugins.reports.progress import read_run
    from learnforge_plugins.reports.table import show_rows
    from learnforge_plugins.reports.write import page_html

    devices = [read_profile(file) for file in profiles]
    sections = [*compare_runs([read_run(folder) for folder in folders]), *devices]
    title = "Comparison of " + ", ".join(map(str, folders))
    write_text(target, page_html(title, "learnforge report", sections))
    for section in sections:
        if section.rows:
            show_rows(section.title, section.columns, section.rows)
        if section.words:
            click.echo(section.words + "\n")
    click.echo(target)


def _write_one(choice: PluginChoice, folder: Path, target: Path | None, profiles: Sequence[Path]) -> None:
    from learnforge.files import write_text
    from learnforge.plugins.registry import Plugins
    from learnforge.recipe import plugin_choice, read_recipe
    from learnforge_plugins.reports.device import keep_profile
    from learnforge_plugins.reports.plugin import gather_sections
    from learnforge_plugins.reports.progress import read_run
    from learnforge_plugins.reports.table import show_run
    from learnforge_plugins.reports.write import write_report

    summary = read_run(folder)
    for file in profiles:
        keep_profile(folder, file)
    recipe = folder / "recipe.toml"
    data = read_recipe(recipe) if recipe.is_file() else {}
    plugins = Plugins(plugin_choice(data, choice, str(recipe)))
    show_run(write_report(folder, gather_sections(plugins, summary)))
    if target is not None:
        write_text(target, (folder / "report.html").read_text(encoding="utf-8"))
        click.echo(target)


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge report`."""
    return {"report": command}
