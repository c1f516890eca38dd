"""The group of commands, which imports a command's file when it is needed."""

from __future__ import annotations

import importlib
from typing import Any

import click

from learnforge.cli.options import add_plugin_options, read_choice
from learnforge.discovery import PluginChoice

BUILT_IN = {
    "run": "Run a recipe, or go on with it.",
    "check": "Find every error in a recipe, or tell whether a run can be reproduced here.",
    "cite": "Write the papers behind a run's methods as BibTeX.",
    "report": "Write a run's report anew.",
    "predict": "Name what is in images, by a run's network or an exported file.",
    "adapt": "Teach a meta-learnt network new classes from a folder of examples.",
    "export": "Write a network to a file for a device, and prove the file.",
    "profile": "Write a script that times a network on the device where it is to run.",
    "embed": "Write what a network's layer puts out for images.",
    "describe": "Show what a space holds: its size, its choices, and samples with their costs.",
    "bench": "Compare methods on a benchmark.",
    "plugins": "List the plugins that are installed, without importing them.",
    "doctor": "Look for what is wrong with this installation.",
    "new": "Write a package for a plugin of one's own.",
    "conformance": "Hold a method to the duties of its kind.",
}


class LazyGroup(click.Group):
    """Knows its commands by name; those of plugins are found by their entry points, `command.NAME`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List built-in commands, then those of plugins."""
        return [*BUILT_IN, *self._from_plugins(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name in BUILT_IN:
            command: click.Command = importlib.import_module(f"learnforge.cli.{cmd_name}").command
            return command
        if cmd_name not in self._from_plugins(ctx, is_usable=False):
            return None
        from learnforge.errors import PluginError
        from learnforge.plugins import Plugins

        offered: Any = Plugins(_choice(ctx)).load("command", cmd_name)
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
                [*BUILT_IN.items(), *((name, "(from a plugin)") for name in self._from_plugins(ctx))]
            )

    def _from_plugins(self, ctx: click.Context, is_usable: bool = True) -> list[str]:
        """List the commands of plugins: those that can be used, or all that are known by name."""
        choice = _choice(ctx)
        if choice.files:
            from learnforge.plugins import Plugins

            return [name for name in Plugins(choice).names("command") if name not in BUILT_IN]
        from learnforge.discovery import installed, survey

        standings = survey(installed(), choice)
        known = [s for s in standings if s.plugin.kind == "command" and s.plugin.method not in BUILT_IN]
        return sorted({s.plugin.method for s in known if s.status == "available" or not is_usable})


def _choice(ctx: click.Context) -> PluginChoice:
    given = ctx.params
    words, disable = given.get("group_plugin_words", ()), given.get("group_no_plugin", ())
    return read_choice(words, disable, given.get("group_strict_plugins", False))


@click.group(cls=LazyGroup)
@click.version_option(package_name="learnforge", prog_name="learnforge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand after any command.")
def cli(debug: bool, **plugins: Any) -> None:
    """Search a network, distil it, transfer it, teach it to learn from a few examples, export it."""


add_plugin_options(cli, "group_", is_eager=True)
