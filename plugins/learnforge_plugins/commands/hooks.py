"""`learnforge hooks`."""

from __future__ import annotations

import inspect

import click

from learnforge.cli.options import plugin_options
from learnforge.errors import PluginError, nearest
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice


@click.command("hooks", short_help="List the hooks, or who implements one in which order.")
@click.argument("name", required=False)
@plugin_options
def command(choice: PluginChoice, name: str | None) -> None:
    """List every hook in the order data flow: its signature, and when it is called.

    With NAME, such as learnforge_batch, or batch: who implements that one, in the order of the calls. These
    are the plugins that the project file and `--plugin` enable; methods load when a recipe uses them.
    """
    from learnforge.plugins.registry import Plugins

    plugins = Plugins(choice)
    specs = {key: caller.spec for key, caller in vars(plugins.hook).items() if caller.has_spec()}
    if name is not None:
        whole = name if name in specs else f"learnforge_{name}"
        if whole not in specs:
            raise PluginError(f"there is no hook {name!r}; {nearest(name, specs)}")
        specs = {whole: specs[whole]}
    for key, spec in specs.items():
        click.secho(f"{key}{inspect.signature(spec.function)}", bold=True)
        click.echo(f"    {' '.join((inspect.getdoc(spec.function) or '').split())}")
        for place, plugin in enumerate(plugins.implementing(key), 1):
            click.echo(f"    {place}. {plugin}")
        click.echo("" if name is None or plugins.implementing(key) else "    no loaded plugin implements it")


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge hooks`."""
    return {"hooks": command}
