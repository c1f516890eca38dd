"""`learnforge adapt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from learnforge.cli.options import plugin_options
from learnforge.errors import printable
from learnforge.hookspecs import hookimpl
from learnforge.plugins.choice import PluginChoice

if TYPE_CHECKING:
    from learnforge_kit.data.splits import MemorySplit


@click.command("adapt", short_help="Teach a meta-learnt network new classes from a folder of examples.")
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--support",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of examples; each folder in it is a class.",
)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="Folder for the network that knows them; runs/NAME of the examples' folder by default.",
)
@click.option("--overwrite", is_flag=True, help="Replace a network that is in the folder already.")
@plugin_options
def command(choice: PluginChoice, source: Path, support: Path, target: Path | None, overwrite: bool) -> None:
    """Teach the network in SOURCE, a run's folder or a meta stage's, the classes of a folder of examples.

    There may be other classes, and more or fewer, than in meta-training. What comes out predicts like any
    other network: learnforge predict. The accuracy that is shown is of examples that are left out in turn,
    one of each class at a time.
    """
    from attrs import evolve

    from learnforge.api import adapt
    from learnforge.artifact import load_artifact
    from learnforge.errors import ArtifactError
    from learnforge.files import make_folder
    from learnforge.plugins.registry import Plugins
    from learnforge.record import find_artifact
    from learnforge.spec import Provenance, trained_on
    from learnforge_kit.engines.learner import LearnerOptions
    from learnforge_kit.engines.left_out import judge_left_out
    from learnforge_kit.prediction import read_examples

    target = target or Path("runs") / support.resolve().name
    if target.is_file() or (target / "run.json").exists() or (target / "recipe.toml").exists():
        raise ArtifactError(f"{target} is a file or a run's folder; choose a new one with `--to FOLDER`")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise ArtifactError(f"{target} is not empty; choose a new folder, or `--overwrite` the network in it")
    plugins = Plugins(choice)
    learner = load_artifact(find_artifact(source, is_learner=True))
    if learner.task.form != "classification":
        raise ArtifactError(f"{source} learns no classes, its task is {learner.task.form}")
    classes, split, faults = read_examples(support, learner.task, plugins)
    for fault in faults:
        click.echo(printable(f"left out: {fault}"), err=True)
    for pair in sorted(_same_images(split, classes)):
        words = f"{' and '.join(pair)} have an image in common, and cannot be told apart by it"
        click.echo(printable(f"warning: {words}"), err=True)
    adapted = adapt(learner, split.images, split.labels, plugins, classes)
    shown = learner.normalise(split.images)
    left_out = judge_left_out(learner, shown, split.labels, plugins, classes)
    parent, name = learner.provenance, support.resolve().name
    origins = tuple(f"{name}:{label}" for label in classes)
    taught = trained_on(name, origins, split)
    made_by = LearnerOptions.of(learner)
    provenance = Provenance(
        stage="adapt",
        kind="adapt",
        method=made_by.meta_learner if made_by else {},
        identity=parent.identity,
        seed=parent.seed,
        parents=(parent.fingerprint,),
        trained_on=(*parent.trained_on, taught),
    )
    examples = split.labels.bincount().tolist()
    metrics = {
        "examples": examples,
        "left_out_accuracy": left_out.accuracy,
        "left_out_interval": left_out.interval,
        "left_out": left_out.judged,
    }
    info = evolve(adapted.task, name=name, origins=origins)
    make_folder(target)
    evolve(adapted, task=info, metrics=metrics, provenance=provenance).save(target)
    counts = ", ".join(f"{name} ({count})" for name, count in zip(classes, examples, strict=True))
    click.echo(f"learnt {len(classes)} classes from {len(split)} examples: {counts}")
    if len(classes) != learner.task.outputs:
        click.echo(f"in meta-training there were {learner.task.outputs} classes at a time")
    if left_out.accuracy is None or left_out.interval is None:
        click.echo("accuracy on left-out examples: unknown, there is one of each class")
    else:
        of = f"{left_out.judged} of {len(split)} examples, {left_out.classes} of {len(classes)} classes"
        low, high = (f"{100 * bound:.0f}" for bound in left_out.interval)
        click.echo(
            f"accuracy on left-out examples: {left_out.accuracy:.1%}, 95 % interval {low} to {high} % ({of})"
        )
    click.echo(f"name images with: learnforge predict {target} IMAGES")


def _same_images(split: MemorySplit, classes: Sequence[str]) -> set[tuple[str, ...]]:
    """Return the groups of classes that share an image."""
    owners: dict[bytes, set[int]] = {}
    for image, label in zip(split.images, split.labels.tolist(), strict=True):
        owners.setdefault(image.numpy().tobytes(), set()).add(label)
    return {tuple(classes[label] for label in sorted(own)) for own in owners.values() if len(own) > 1}


@hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    """Offer `learnforge adapt`."""
    return {"adapt": command}
