"""`learnforge conformance`."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from learnforge.cli.options import plugin_options
from learnforge.errors import LearnforgeError, PluginError, Problem, RecipeError
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice, Standing
from learnforge.plugins.found import Plugin

if TYPE_CHECKING:
    from learnforge.plugins.registry import Plugins
    from learnforge_testing.suite import Report
from learnforge_plugins.commands.plugins import find_plugin, list_standings

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow", "expected failure": "yellow"}


@click.command("conformance", short_help="Hold a method, or all of a package, to the duties of its kind.")
@click.argument("name")
@click.option("--set", "words", multiple=True, metavar="OPTION=VALUE", help="An option of the method.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@plugin_options
def command(choice: PluginChoice, name: str, words: Sequence[str], as_json: bool) -> None:
    """Run the conformance suite of NAME's kind on it, such as distiller.kd.

    NAME may also be a distribution, such as my-methods: then each of its plugins is held to its suite. Tells
    which checks passed, failed, were skipped or are expected to fail, and why. The exit status is 1 if one
    failed or none ran. `learnforge_testing` has the same suites as classes for pytest.
    """
    from learnforge.plugins.registry import Plugins

    standings = list_standings(choice)
    own = [standing for standing in standings if standing.plugin.is_of(name)]
    options = _options(words)
    if options and any(standing.plugin.name == name for standing in own):
        own = []  # a package whose plugin has its name
    if own and options:
        raise RecipeError([Problem("", f"options are for one plugin, and {name} is a distribution")], "--set")
    plugins = Plugins(choice)
    if own:
        reports = _check_all(own, plugins, as_json)
    else:
        reports = [_check(find_plugin(name, None, standings), plugins, options, as_json)]
    if as_json:
        data = [report.as_data() for report in reports]
        click.echo(json.dumps(data if own else data[0], indent=1))
    bad = [report.title for report in reports if not report.is_good]
    if own and not as_json:
        failed = f"; not {', '.join(bad)}" if bad else ""
        click.echo(f"{name}: {len(reports) - len(bad)} of {len(reports)} plugins are conformant{failed}")
    if bad or not reports:
        sys.exit(1)


def _check_all(standings: Sequence[Standing], plugins: Plugins, is_quiet: bool) -> list[Report]:
    """Hold each plugin of a distribution to the suite of its kind; say which have none or cannot be used."""
    from learnforge_testing.conformance import SUITES
    from learnforge_testing.suite import Outcome, Report

    reports = []
    for standing in standings:
        plugin = standing.plugin
        if not is_quiet:
            click.secho(plugin.name, bold=True)
        if plugin.kind not in SUITES:
            if not is_quiet:
                click.echo(f"no suite holds the kind {plugin.kind!r} to anything")
            continue
        try:
            if standing.status not in ("available", "loaded", "duplicate"):
                raise PluginError(str(standing))
            reports.append(_check(plugin, plugins, {}, is_quiet))
        except (
            LearnforgeError
        ) as error:  # such as an option that must be given: the others are checked all the same
            reports.append(Report(plugin.name, (Outcome("can_be_used", "failed", str(error)),)))
            if not is_quiet:
                click.echo(f"{click.style('failed'.ljust(16), fg='red')}  can_be_used: {error}")
    return reports


def _check(plugin: Plugin, plugins: Plugins, options: Mapping[str, Any], is_quiet: bool) -> Report:
    """Hold one plugin to the suite of its kind, and print each check as it ends."""
    from learnforge_testing.conformance import make_suite
    from learnforge_testing.suite import Report

    outcomes = []
    for outcome in make_suite(plugin, plugins, options).run():
        outcomes.append(outcome)
        if not is_quiet:
            state = click.style(outcome.state.ljust(16), fg=_COLOURS[outcome.state])
            click.echo(f"{state}  {outcome.name}" + (f": {outcome.words}" if outcome.words else ""))
    report = Report(plugin.name, tuple(outcomes))
    if not is_quiet:
        click.echo(str(report))
    return report


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Read `option=value` words, values as in TOML; a bare word is a string.

    Raises:
        RecipeError: A word has no `=`.
    """
    options: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise RecipeError([Problem(word, "must look like option=value")], "--set")
        try:
            options[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[name.strip()] = value
    return options


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge conformance`."""
    return {"conformance": command}
