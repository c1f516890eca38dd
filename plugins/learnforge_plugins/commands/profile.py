"""`learnforge profile`."""

from __future__ import annotations

from pathlib import Path

import click

from learnforge.cli.options import plugin_options
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice


@click.command("profile", short_help="Write a script that times a network on the device where it is to run.")
@click.argument("sources", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--to",
    "target",
    default=Path("profile_device.py"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="Script to write.",
)
@click.option("--space", help="Time the layers of random designs of this space too, as searches need it.")
@click.option(
    "--shape", default="3x32x32", show_default=True, help="Of the space: channels, height and width."
)
@click.option("--classes", type=click.IntRange(1), default=10, show_default=True, help="Of its task.")
@click.option("--samples", type=click.IntRange(1), default=10, show_default=True, help="Random designs.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the samples.")
@plugin_options
def command(
    choice: PluginChoice,
    sources: tuple[Path, ...],
    target: Path,
    space: str | None,
    shape: str,
    classes: int,
    samples: int,
    seed: int,
) -> None:
    """Write a script that times the networks of SOURCES, folders of runs or stages, and their layers.

    Copy it to the device and run it there; it needs onnxruntime and numpy alone. The JSON that it writes is a
    table for the cost `lookup`: costs = [{ use = "lookup", file = "profile.json", label = "phone_ms" }] in a
    search, then limits = { phone_ms = 5.0 } or an objective "-phone_ms".
    """
    from learnforge.api import load
    from learnforge.files import make_folder
    from learnforge.plugins.registry import Plugins
    from learnforge_plugins.commands.profiling import write_profiler
    from learnforge_plugins.stages.search.describe import make_info, parse_space, random_networks

    if not sources and space is None:
        raise click.UsageError("give a run's or a stage's folder, or --space")
    plugins = Plugins(choice)
    artifacts = {str(source): load(source) for source in sources}
    whole = {name: (a.network(plugins).eval(), a.task) for name, a in artifacts.items()}
    others = []
    if space is not None:
        info = make_info(shape, classes)
        others = [(n, info) for n in random_networks(parse_space(space, plugins), info, samples, seed)]

    def tell(words: str) -> None:
        click.echo(words, err=True)

    make_folder(target.parent)
    layers = write_profiler(target, whole, others, plugins, tell)
    size = target.stat().st_size / 2**20
    networks = f"{len(whole)} network{'' if len(whole) == 1 else 's'}"
    click.echo(f"{target}: {networks} and {layers} layers, {size:.1f} MiB")
    click.echo(f"on the device: python {target.name} --to profile.json")


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge profile`."""
    return {"profile": command}
