"""`learnforge doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import asdict, evolve
from packaging.requirements import Requirement

from learnforge.cli.options import PLACE, plugin_options
from learnforge.errors import LearnforgeError
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import ENVIRONMENT, PluginChoice, Standing
from learnforge.plugins.found import unreadable_distributions
from learnforge.plugins.kinds import GROUP, HOOKS, KINDS, RECIPE
from learnforge.plugins.project import read_project

if TYPE_CHECKING:
    from learnforge.plugins.registry import Plugins


@click.command("doctor", short_help="Look for what is wrong with this installation.")
@plugin_options
def command(choice: PluginChoice) -> None:
    """Show the environment, versions and devices, import every plugin, and say what fails and what to do.

    The exit status is 1 if anything is wrong.
    """
    from learnforge.plugins.registry import Plugins

    parts = {
        "environment": _environment(),
        "versions": _versions(),
        "devices": _devices(),
        "settings": _settings(choice),
    }
    for title, lines in parts.items():
        click.secho(title, bold=True)
        for line in lines:
            click.echo(f"  {line}")
    click.secho("plugins", bold=True)
    try:
        plugins = Plugins(choice)
    except LearnforgeError as error:
        click.secho(f"  {error}", fg="red")
        sys.exit(1)
    standings = load_all(plugins)
    loaded = [standing for standing in standings if standing.status == "loaded"]
    click.echo(f"  {len(loaded)} of {len(standings)} loaded")
    missing = [line for line in _versions() if "is missing" in line]
    faults = [s for s in standings if s.status in ("failed", "duplicate", "incompatible")]
    for standing in standings:
        if standing.status == "disabled":
            click.echo(f"  {standing.plugin}: disabled {standing.reason}")
    for folder in unreadable_distributions():
        click.secho(f"  {folder}: its metadata or entry points are no UTF-8; install it again", fg="red")
    for lack in plugins.gather("learnforge_missing", str):
        click.echo(f"  {lack}")
    for standing in faults:
        click.secho(f"  {standing.plugin}: {standing.status}", fg="red")
        click.echo(f"    {standing.reason}")
    if missing:
        click.secho(f"{len(missing)} libraries are missing; install learnforge again", bold=True)
    if faults:
        click.secho(
            f"{len(faults)} of them cannot be used as they are; the others are not affected", bold=True
        )
    if faults or missing:
        sys.exit(1)
    click.secho("nothing is wrong", bold=True)


def _environment() -> Iterator[str]:
    import learnforge

    yield f"Python {platform.python_version()}, {sys.executable}"
    yield platform.platform()
    yield f"learnforge {importlib.metadata.version('learnforge')}, {Path(learnforge.__file__).parent}"
    yield f"{ENVIRONMENT} = {os.environ.get(ENVIRONMENT, '(not set)')}"


def _settings(choice: PluginChoice) -> Iterator[str]:
    """Say what holds for every run from here, and which place says so."""
    project = read_project()
    yield f"project file: {project.path or 'none, here or in a folder above'}"
    for key, value in asdict(project.run).items():
        if value is not None:
            yield f"{key} = {value} (from {project.path if key in project.said else 'the default'})"
    for file in choice.files:
        is_own = Path(file.path) in [path.resolve() for path in project.files]
        yield f"plugin file {file.path} (from {project.path if is_own else PLACE})"
    for wish in choice.with_environment(os.environ).wishes:
        yield from (f"enable {name} (from {wish.where})" for name in wish.enable)
        yield from (f"disable {name} (from {wish.where})" for name in wish.disable)
        for name, options in wish.settings.items():
            yield from (f"{name}.{key} = {value!r} (from {wish.where})" for key, value in options.items())


def _dependencies() -> list[str]:
    """List what learnforge itself requires, its extras left out."""
    try:
        wanted = [Requirement(text) for text in importlib.metadata.requires(GROUP) or ()]
    except importlib.metadata.PackageNotFoundError:  # an import from a checkout that is not installed
        return []
    return sorted(r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""}))


def _versions() -> Iterator[str]:
    for name in _dependencies():
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} is missing; install learnforge again"


def _devices() -> Iterator[str]:
    import torch

    threads = torch.get_num_threads()
    yield f"CPU: {os.cpu_count()} cores, torch uses {threads} thread{'s' if threads > 1 else ''}"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"cuda:{number}: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch has no CUDA"
        yield f"CUDA: none ({built})"
    if torch.backends.mps.is_available():
        yield "mps: Apple GPU"


def load_all(plugins: Plugins) -> list[Standing]:
    """Import every usable plugin, and tell how all stand then."""
    faults = {}
    available = [standing.plugin for standing in plugins.standings() if standing.status == "available"]
    # what brings a kind of its own comes before those of that kind
    for plugin in sorted(available, key=lambda plugin: plugin.kind not in (*KINDS, HOOKS.name)):
        try:
            if plugin.kind in (HOOKS.name, RECIPE):
                plugins.module_of(plugin)
            else:
                plugins.load(plugin.kind, f"{plugin.distribution}:{plugin.method}")
        except LearnforgeError as error:
            faults[plugin.key] = str(error)
    return [
        evolve(standing, status="failed", reason=faults[standing.plugin.key])
        if standing.plugin.key in faults
        else standing
        for standing in plugins.standings()
    ]


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge doctor`."""
    return {"doctor": command}
