"""The duties of a plugin that brings a subcommand."""

from __future__ import annotations

from typing import Any, ClassVar

import click
from click.testing import CliRunner

from learnforge_testing.suite import Suite, needs, require


class CommandSuite(Suite):
    """Checks of a subcommand.

    Args:
        method: The `click.Command` that `learnforge_commands` offers.
    """

    method: ClassVar[Any]
    kind: ClassVar[str] = "command"

    def test_it_is_a_click_command(self) -> None:
        """learnforge's command line is click's, and so are its subcommands."""
        require(isinstance(self.method, click.Command), f"must be a click.Command, got {self.method!r}")

    def test_help_tells_what_it_does(self) -> None:
        """`--help` works, and says in a sentence what the command does and in words what each option is."""
        done = CliRunner().invoke(self.method, ["--help"])
        require(done.exit_code == 0, f"--help must end with 0, ended with {done.exit_code}: {done.output}")
        require((self.method.help or "").strip(), "the command needs a docstring that says what it does")
        options = [p for p in self.method.params if isinstance(p, click.Option)]
        wordless = [option.name for option in options if not option.help]
        require(not wordless, f"options need help=…: {', '.join(map(str, wordless))}")

    @needs(
        lambda suite: not getattr(suite.method, "context_settings", {}).get("ignore_unknown_options"),
        "the command hands options on",
    )
    def test_unknown_option_is_refused(self) -> None:
        """An option that it lacks ends with 2, as click has it, and with no traceback."""
        done = CliRunner().invoke(self.method, ["--no-such-option"])
        require(done.exit_code == 2, f"--no-such-option must end with 2, ended with {done.exit_code}")
