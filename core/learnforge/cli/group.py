"""The group of commands, which imports a command's file when it is needed."""

from __future__ import annotations

import importlib
from typing import Any

import click

_COMMANDS = {
    "run": "Run a recipe, or go on with it.",
    "check": "Find every error in a recipe without training anything.",
    "plugins": "List the plugins that are installed, without importing them.",
    "report": "Write a run's report anew.",
}


class LazyGroup(click.Group):
    """Knows its commands by name; those of plugins are found by their entry points, `command.NAME`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List built-in commands, then those of plugins."""
        return [*_COMMANDS, *self._from_plugins()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name in _COMMANDS:
            command: click.Command = importlib.import_module(f"learnforge.cli.{cmd_name}").command
            return command
        if cmd_name in self._from_plugins():
            from learnforge.plugins import Plugins

            offered: Any = Plugins().load("command", cmd_name)
            assert isinstance(offered, click.Command)
            return offered
        return None

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
                [*_COMMANDS.items(), *((name, "(from a plugin)") for name in self._from_plugins())]
            )

    def _from_plugins(self) -> list[str]:
        from learnforge.plugins import installed

        return [plugin.method for plugin in installed() if plugin.kind == "command"]


@click.group(cls=LazyGroup)
@click.version_option(package_name="learnforge", prog_name="learnforge")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may stand after any command.")
def cli(debug: bool) -> None:
    """Search a network, distil it, transfer it, teach it to learn from a few examples, export it."""
