"""`learnforge conformance`."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Sequence
from typing import Any

import click

from learnforge.cli.options import plugin_options
from learnforge.cli.plugins import find_plugin, list_standings
from learnforge.errors import Problem, RecipeError
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice

_COLOURS = {"passed": "green", "failed": "red", "skipped": "yellow", "expected failure": "yellow"}


@click.command("conformance", short_help="Hold a method to the duties of its kind.")
@click.argument("name")
@click.option("--set", "words", multiple=True, metavar="OPTION=VALUE", help="An option of the method.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@plugin_options
def command(choice: PluginChoice, name: str, words: Sequence[str], as_json: bool) -> None:
    """Run the conformance suite of NAME's kind on it, such as distiller.kd.

    Tells which checks passed, failed, were skipped or are expected to fail, and why. The exit status is 1 if
    one failed or none ran. `learnforge_testing` has the same suites as classes for pytest.
    """
    from learnforge.plugins.registry import Plugins
    from learnforge_testing.conformance import make_suite
    from learnforge_testing.suite import Report

    plugin = find_plugin(name, None, list_standings(choice))
    suite = make_suite(plugin, Plugins(choice), _options(words))
    outcomes = []
    for outcome in suite.run():
        outcomes.append(outcome)
        if not as_json:
            state = click.style(outcome.state.ljust(16), fg=_COLOURS[outcome.state])
            click.echo(f"{state}  {outcome.name}" + (f": {outcome.words}" if outcome.words else ""))
    report = Report(plugin.name, tuple(outcomes))
    click.echo(json.dumps(report.as_data(), indent=1) if as_json else str(report))
    if not report.is_good:
        sys.exit(1)


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
