"""Bring a subcommand: `learnforge --plugin 06_add_a_command.py largest RUN` names a run's largest layers.

Installed as the entry point `command.largest` it needs no `--plugin`, and `learnforge --help` lists it.
"""

import tempfile
from pathlib import Path

import click
from click.testing import CliRunner

import learnforge as lf
from learnforge.cli.group import cli


@click.command("largest")
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.option("--count", default=3, show_default=True, help="How many layers to name.")
def largest(run: Path, count: int) -> None:
    """Name the largest layers of every stage of RUN."""
    for folder in sorted(path.parent for path in run.glob("*/artifact.json")):
        weights = lf.load(folder).weights
        for name in sorted(weights, key=lambda name: -weights[name].numel())[:count]:
            click.echo(f"{folder.name}  {name}  {weights[name].numel():,}")


@lf.hookimpl
def learnforge_commands() -> dict[str, click.Command]:
    return {"largest": largest}


def main() -> str:
    digits = lf.load_task("digits", classes=[0, 1, 2])
    teacher = lf.load_method("model.conv4")(width=8)
    with tempfile.TemporaryDirectory() as folder:
        once = {"epochs": 1}
        student = {"use": "conv4", "width": 4}
        lf.distill(teacher, student, task=digits, run=folder, train=once, teacher_train=once)
        done = CliRunner().invoke(cli, ["--plugin", __file__, "largest", folder, "--count", "1"])
    print(done.output)
    return done.output


if __name__ == "__main__":
    main()
