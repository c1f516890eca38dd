"""The group of commands, which imports a command's file when it is needed."""

from __future__ import annotations

import importlib
import re
from contextlib import suppress
from typing import Any

import click

from learnforge.cli.options import add_plugin_options, read_choice
from learnforge.plugins.choice import PluginChoice, survey
from learnforge.plugins.found import installed, locate
from learnforge.plugins.kinds import GROUP

BUILT_IN = {"run": "Run a recipe, or go on with it."}
FROM_PLUGIN = "(from a plugin)"


class LazyGroup(click.Group):
    """Knows its commands by name; those of plugins are found by their entry points, `command.NAME`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List built-in commands, then those of plugins."""
        return [*BUILT_IN, *self._from_plugins(ctx, has_project=False)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name in BUILT_IN:
            command: click.Command = importlib.import_module(f"learnforge.cli.{cmd_name}").command
            return command
        from learnforge.errors import PluginError
        from learnforge.plugins.registry import Plugins

        choice = _choice(ctx)
        usable = [s.plugin for s in survey(installed(), choice) if s.status == "available"]
        if any(p.name == f"command.{cmd_name}" and p.is_of(GROUP) for p in usable):
            choice = PluginChoice()  # learnforge's own load whatever is wrong with others, which doctor tells
        elif cmd_name not in self._from_plugins(ctx, is_usable=False):
            return None
        offered: Any = Plugins(choice).load("command", cmd_name)
        if not isinstance(offered, click.Command):
            raise PluginError(
                f"the command {cmd_name!r} must be a click.Command, its plugin gives {offered!r}"
            )
        return offered

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command, or say which one is nearest."""
        from learnforge.errors import nearest

        name = args[0]
        if self.get_command(ctx, name) is None:
            ctx.fail(f"there is no command {name!r}; {nearest(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the commands with their words, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [
                    *BUILT_IN.items(),
                    *((name, _words_of(name)) for name in self._from_plugins(ctx, has_project=False)),
                ]
            )

    def _from_plugins(
        self, ctx: click.Context, is_usable: bool = True, has_project: bool = True
    ) -> list[str]:
        """List the commands of plugins: those that can be used, or all that are known by name. Help is shown
        without the project file, which may be at fault, and whose code it must not run.
        """
        choice = _choice(ctx, has_project)
        if choice.files:
            from learnforge.plugins.registry import Plugins

            return [name for name in Plugins(choice).names("command") if name not in BUILT_IN]

        standings = survey(installed(), choice)
        known = [s for s in standings if s.plugin.kind == "command" and s.plugin.method not in BUILT_IN]
        return sorted({s.plugin.method for s in known if s.status == "available" or not is_usable})


def _words_of(name: str) -> str:
    """Return the short help of a plugin's command, read from its source: importing it may take seconds."""
    places = [locate(plugin) for plugin in installed() if plugin.name == f"command.{name}"]
    if len(places) != 1 or places[0] is None:
        return FROM_PLUGIN
    with suppress(OSError, ValueError):  # it is at fault when it is called, not here
        source = places[0].read_text(encoding="utf-8")
        found = re.search(rf'\(\s*"{re.escape(name)}",[^)]*?short_help="([^"]*)"', source)
        return found[1] if found else FROM_PLUGIN
    return FROM_PLUGIN


def _choice(ctx: click.Context, has_project: bool = True) -> PluginChoice:
    given = ctx.params.items()
    own = {k.removeprefix("group_"): v for k, v in given if k.startswith("group_")}
    return read_choice(**own, has_project=has_project)


@click.group(cls=LazyGroup)
@click.version_option(package_name="learnforge", prog_name="learnforge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand after any command.")
def cli(debug: bool, **plugins: Any) -> None:
    """Search a network, distil it, transfer it, teach it to learn from a few examples, export it."""


add_plugin_options(cli, "group_", is_eager=True)
