"""`learnforge export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from learnforge.cli.options import plugin_options
from learnforge.errors import printable
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice

if TYPE_CHECKING:
    from learnforge.artifact import Artifact
    from learnforge.kinds.task import Task


@click.command("export", short_help="Write a network to a file for a device, and prove the file.")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--use", default="onnx", show_default=True, help="Exporter: onnx, int8, torch-export, or another."
)
@click.option(
    "--images",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with a folder of images for each class; the task of SOURCE's run by default.",
)
@click.option(
    "--to", "target", type=click.Path(path_type=Path), help="Folder; runs/NAME-EXPORTER by default."
)
@click.option("--overwrite", is_flag=True, help="Replace an export of another network in the folder.")
@plugin_options
def command(
    choice: PluginChoice, source: Path, use: str, images: Path | None, target: Path | None, overwrite: bool
) -> None:
    """Write the network in SOURCE, the folder of a run, a stage or a network that `adapt` made, to a file.

    Of a run the last finished stage counts. The file is proved on the task's test images, or on all of
    --images, and `int8` is calibrated on training images, or on the same. An export stage in a recipe does
    this too, has settings, and teaches a few-shot learner the classes of a test episode.
    """
    from learnforge.api import export
    from learnforge.artifact import load_artifact
    from learnforge.errors import ArtifactError
    from learnforge.plugins.registry import Plugins
    from learnforge_kit.measured import spell_score
    from learnforge_kit.prediction import load_network
    from learnforge_plugins.stages.exported import Exported

    plugins = Plugins(choice)
    folder, artifact = load_network(source.resolve())
    if artifact.provenance.kind == "export" and images is None:
        there = sorted(path.parent for path in folder.parent.glob("*/artifact.json"))
        stages = [str(path) for path in there if load_artifact(path).provenance.kind != "export"]
        there_are = f": {', '.join(stages)}" if stages else ""
        raise ArtifactError(f"{folder} is an export already; name the stage that made its network{there_are}")
    task = _task_of_run(folder, choice) if images is None else _task_of_images(artifact, images)
    name = f"{folder.parent.name}-{folder.name}" if (folder.parent / "run.json").is_file() else folder.name
    target = target or Path("runs") / f"{name}-{use}"
    made = export(artifact, task, use, run=target, plugins=plugins, overwrite=overwrite)
    known = {entry["content"] for entry in artifact.provenance.trained_on}
    if images is not None and task.test.content in known:
        click.echo("these are the images that it was taught from: their accuracy is not that of new ones")
    found = Exported.of(made.metrics)
    proof, measure = found.proof, found.proof.file.measure
    spelled = [
        spell_score(measure, value) for value in (proof.file.test, proof.network.test, proof.agreement)
    ]
    same = "the same class in" if measure == "accuracy" else f"{measure} of the network's answers"
    click.echo(
        f"proved on {proof.images} {'images' if artifact.task.inputs == 'bytes' else 'examples'}: {measure} "
        f"{spelled[0]}, the network's {spelled[1]}; {same} {spelled[2]}; "
        f"{'class scores' if measure == 'accuracy' else 'outputs'} differ by {proof.max_difference:.2g} at "
        "most"
    )
    click.echo(
        f"{found.bytes:,} bytes, {proof.latency_ms:.3g} ms for one input, the network in torch "
        f"{proof.network_latency_ms:.3g} ms"
    )
    click.echo(target / "export" / found.file)


def _task_of_run(folder: Path, choice: PluginChoice) -> Task:
    """Return the task of the stage that made an artifact."""
    from learnforge.errors import ArtifactError
    from learnforge.plugins.registry import Plugins
    from learnforge.recipe import parse_recipe, plugin_choice, read_recipe

    path = folder.parent / "recipe.toml"
    data = read_recipe(path) if path.is_file() else {}
    if "stage" not in data:
        raise ArtifactError(
            f"{folder} is no stage of a recipe's run, whose task could prove the file; give labelled images "
            "with `--images FOLDER`, a folder for each class in it"
        )
    recipe = parse_recipe(data, Plugins(plugin_choice(data, choice, str(path))), str(path))
    stage = next((stage for stage in recipe.stages if stage.name == folder.name), None)
    if stage is None:
        raise ArtifactError(f"{folder} is no stage of {path}; give labelled images with `--images FOLDER`")
    return recipe.task_of(stage).load()


def _task_of_images(artifact: Artifact, images: Path) -> Task:
    """Return a task of labelled images, all of which are in each split."""
    import torch

    from learnforge.errors import ArtifactError, TaskError, nearest
    from learnforge.kinds.form import form_of
    from learnforge.kinds.task import Task
    from learnforge_kit.data.images import read_classes
    from learnforge_kit.data.splits import MemorySplit

    form = artifact.task.form
    if not form_of(form).names_one_class or artifact.task.inputs != "bytes":
        what = f"its task is {form}" if artifact.task.inputs == "bytes" else "its inputs are no images"
        raise ArtifactError(
            f"{images}: folders of images are for networks that name their class, {what}; leave `--images` "
            "out"
        )
    names, split, faults = read_classes(images, artifact.task.input_shape)
    for fault in faults:
        click.echo(printable(f"left out: {fault}"), err=True)
    known = list(artifact.task.classes)
    for name in names:
        if name not in known:
            raise TaskError(
                f"{images / name} must have the name of a class of the network; {nearest(name, known)}"
            )
    places = torch.tensor([known.index(name) for name in names])
    all_of_them = MemorySplit(split.images, places[split.labels])
    return Task(artifact.task, all_of_them, all_of_them, all_of_them)


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge export`."""
    return {"export": command}
