"""`learnforge embed`."""

from __future__ import annotations

from pathlib import Path

import click

from learnforge.cli.options import plugin_options
from learnforge.errors import printable
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice


@click.command("embed", short_help="Write what a network's layer puts out for images.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--layer", default="embedding", show_default=True, help="A layer's name, `stage 2`, or `embedding`."
)
@click.option(
    "--to",
    "target",
    default=Path("features.npz"),
    show_default=True,
    type=click.Path(path_type=Path),
    help="File to write.",
)
@plugin_options
def command(choice: PluginChoice, folder: Path, images: tuple[Path, ...], layer: str, target: Path) -> None:
    """Write the features of IMAGES, files or folders, by the network of the run or stage in FOLDER.

    The file has `features`, float32 [image, feature], and `files`, the images' names in the same order; numpy
    reads it. A network for sounds takes WAV files, one for a table CSV files. Files that cannot be read are
    named, and the rest is done.
    """
    import numpy as np
    import torch

    from learnforge.api import load
    from learnforge.context import choose_device
    from learnforge.errors import TaskError
    from learnforge.files import make_folder, write_atomically
    from learnforge.plugins.registry import Plugins
    from learnforge_kit.data.splits import MemorySplit
    from learnforge_kit.networks.features import extract_features
    from learnforge_kit.prediction import read_inputs

    artifact = load(folder)
    device = choose_device("auto")
    plugins = Plugins(choice)
    network = artifact.network(plugins).to(device)

    def complain(fault: str) -> None:
        click.echo(printable(f"left out: {fault}"), err=True)

    files, features = [], []
    for names_read, pixels in read_inputs(artifact.task, images, plugins, complain):
        files += names_read
        split = MemorySplit(pixels, torch.full((len(pixels),), -1)).load(device)
        features.append(extract_features(network, split, artifact.task, layer).numpy())
    if not files:
        raise TaskError("none of the files can be read")
    found, names = np.concatenate(features), np.array(files)

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez(stream, features=found, files=names)

    make_folder(target.parent)
    write_atomically(target, write)
    click.echo(f"{target}: {found.shape[0]} images, {found.shape[1]} features of {layer}")


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge embed`."""
    return {"embed": command}
