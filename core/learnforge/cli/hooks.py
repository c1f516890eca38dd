"""`learnforge hooks`."""

from __future__ import annotations

import inspect

import click

from learnforge import hookspecs


@click.command("hooks", short_help="List the hooks that plugins may implement.")
def command() -> None:
    """List every hook in the order data flow: its signature, and when it is called."""
    specs = [f for name, f in vars(hookspecs).items() if hasattr(f, "learnforge_spec") and callable(f)]
    for function in specs:
        click.echo(click.style(f"{function.__name__}{inspect.signature(function)}", bold=True))
        click.echo(f"    {' '.join((inspect.getdoc(function) or '').split())}\n")
