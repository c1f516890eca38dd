"""`learnforge predict`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from learnforge.cli.options import plugin_options
from learnforge.errors import printable
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice

if TYPE_CHECKING:
    from learnforge.plugins.registry import Plugins
    from learnforge_kit.exported import ArrayPredictor
    from learnforge_kit.prediction import Predictor


@click.command("predict", short_help="Name what is in files, by a run's network or an exported file.")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option("--json", "as_json", is_flag=True, help="Write lines of JSON, with the shares of all classes.")
@click.option(
    "--to",
    "target",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write when all is named, instead of printing.",
)
@click.option(
    "--calibrated", is_flag=True, help="Scale scores by the temperature that fits the validation images best."
)
@click.option("--trust", is_flag=True, help="Let a file that may hold code, such as a .pt2, run it.")
@click.option("--device", default="auto", show_default=True, help="Where a network computes.")
@plugin_options
def command(
    choice: PluginChoice,
    source: Path,
    images: tuple[Path, ...],
    as_json: bool,
    target: Path | None,
    calibrated: bool,
    trust: bool,
    device: str,
) -> None:
    """Name what is in IMAGES, files or folders, or `-` for a list of files on standard input.

    SOURCE is a run's folder, whose last finished stage counts, a stage's, or a file that an export stage
    wrote; a .pt2 may hold code, and wants --trust. For each image there is a line of CSV with file, class and
    confidence, the class's share of the softmax. A network for sounds takes WAV files, one for a table CSV
    files; one for numbers, or for several labels at once, gives a column for each. Files that cannot be read
    are named and the rest is done; the exit status is 1 then.
    """
    import csv
    import json

    from learnforge.files import make_folder, write_atomically
    from learnforge.plugins.registry import Plugins
    from learnforge_kit.exported import REJECTED
    from learnforge_kit.prediction import predict_files

    paths = [path for path in images if str(path) != "-"]
    if len(paths) < len(images):
        paths += [Path(line.strip()) for line in sys.stdin if line.strip()]
    plugins = Plugins(choice)
    predictor = _open(source, plugins, device, calibrated, trust)
    click.echo(f"named by {predictor.source}", err=True)
    if source.is_file() and source.name.startswith(REJECTED):
        click.echo(f"warning: {source.name} failed its proof; it may not answer as the network", err=True)
    left_out = False

    def complain(fault: str) -> None:
        nonlocal left_out
        left_out = True
        click.echo(printable(f"left out: {fault}"), err=True)

    def write(stream: IO[Any]) -> None:
        table = csv.writer(stream, lineterminator="\n")
        names = predictor.classes
        if not as_json:
            columns = ("class", "confidence") if predictor.names_one_class else map(_as_cell, names)
            table.writerow(("file", *map(shown, columns)))
        for found in predict_files(predictor, paths, plugins, complain):
            values = dict(zip(names, found.shares, strict=True))
            if as_json and found.label is None:
                stream.write(json.dumps({"file": found.file, "values": values}) + "\n")
            elif as_json:
                line = {"file": found.file, "class": found.label, "confidence": found.confidence}
                stream.write(json.dumps({**line, "shares": values}) + "\n")
            elif found.label is None:
                cells = (f"{value:.9g}" for value in found.shares)
                table.writerow((shown(_as_cell(found.file)), *cells))
            else:
                named = (_as_cell(found.file), _as_cell(found.label))
                table.writerow((*map(shown, named), f"{found.confidence:.4f}"))

    shown: Callable[[str], str] = str
    if target is None:
        if sys.stdout.isatty():
            shown = printable
        # names that are not UTF-8 are written as they are
        with click.open_file("-", "w", encoding="utf-8", errors="surrogateescape") as stream:
            write(stream)
        sys.exit(left_out)

    def write_file(path: Path) -> None:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            write(stream)

    make_folder(target.parent)
    write_atomically(target, write_file)
    click.echo(target)
    sys.exit(left_out)


def _open(
    source: Path, plugins: Plugins, device: str, calibrated: bool, trust: bool
) -> Predictor | ArrayPredictor:
    """Open what answers, without torch where that will do: its import takes longer than a few images."""
    from learnforge_kit.exported import open_arrays

    is_light = source.is_file() and device == "auto"
    found = open_arrays(source, plugins, calibrated, trust) if is_light else None
    if found is not None:
        return found
    from learnforge.context import choose_device
    from learnforge_kit.prediction import open_predictor

    return open_predictor(source, plugins, choose_device(device, "--device", "predict"), calibrated, trust)


def _as_cell(text: str) -> str:
    """Keep a spreadsheet from taking a name for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge predict`."""
    return {"predict": command}
