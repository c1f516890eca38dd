"""`learnforge export`: a file from a network that examples taught, or from a run's stage, and its proof."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from click.testing import CliRunner
from PIL import Image

import learnforge as lf
from learnforge import Plugins
from learnforge.artifact import from_model
from learnforge.cli.group import cli
from learnforge.spec import Provenance, trained_on
from learnforge_kit.data.images import read_classes
from learnforge_kit.prediction import open_predictor
from tests.core.recipes import DISTILL

CLASSES = ("one", "zero", "five")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a network that `adapt` might have made."""
    task = lf.load_task("digits", classes=[0, 1, 5])
    torch.manual_seed(0)
    artifact = from_model(Plugins().load("model", "conv4")(width=4, blocks=2), task.info)
    folder = tmp_path_factory.mktemp("networks") / "few"
    info = evolve(task.info, classes=CLASSES)
    evolve(artifact.with_state(artifact.network()), task=info).save(folder)
    return folder


def examples(folder: Path, names: list[str]) -> Path:
    """Write four images of each of the digits 0, 1 and 5 under these names."""
    task: Any = lf.load_task("digits", classes=[0, 1, 5])
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for row in (task.train.labels == label).nonzero().flatten()[:4].tolist():
            Image.fromarray(task.train.images[row, 0].numpy()).save(folder / name / f"{row}.png")
    return folder


def call(*words: object) -> Any:
    return CliRunner().invoke(cli, ["export", *map(str, words)])


def test_a_taught_network_is_proved_on_images(network: Path, tmp_path: Path) -> None:
    """Labels are the places of the folders' names in the network's classes; the file is what it is."""
    support = examples(tmp_path / "images", ["zero", "one", "five"])
    done = call(network, "--images", support, "--use", "torch-export", "--to", tmp_path / "out")
    assert done.exit_code == 0, done.output
    file = tmp_path / "out" / "export" / "model.pt2"
    assert done.output.splitlines()[-1] == str(file)
    artifact = lf.load(network)
    _, split, _ = read_classes(support, (1, 8, 8))  # five, one, zero
    labels = torch.tensor([2, 0, 1])[split.labels]
    scores = artifact.predict(split.images)
    right = float((scores.argmax(1) == labels).double().mean())
    assert f"proved on 12 images: accuracy {right:.1%}, the network's {right:.1%}" in done.output
    opened = open_predictor(file, Plugins(), is_trusted=True)
    assert opened.task.classes == CLASSES
    torch.testing.assert_close(opened.score(split.images), scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("use", ["onnx", "int8"])
def test_a_network_is_proved_on_what_it_was_taught(network: Path, tmp_path: Path, use: str) -> None:
    """Which is said, since the accuracy says nothing then; few images are enough to calibrate with."""
    support = examples(tmp_path / "images", ["zero", "one", "five"])
    artifact = lf.load(network)
    names, split, _ = read_classes(support, (1, 8, 8))
    taught = trained_on("few", [f"few:{name}" for name in names], split)
    info = evolve(artifact.task, classes=tuple(names))
    evolve(artifact, task=info, provenance=Provenance(trained_on=(taught,))).save(tmp_path / "few")
    done = call(tmp_path / "few", "--images", support, "--use", use, "--to", tmp_path / "out")
    assert done.exit_code == 0, done.exception
    assert "these are the images that it was taught from" in done.output
    other = call(network, "--images", support, "--use", "torch-export", "--to", tmp_path / "other")
    assert other.exit_code == 0
    assert "that it was taught from" not in other.output


def test_a_stage_is_proved_on_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without images the recipe's task gives them; the folder is named by run, stage and exporter."""
    monkeypatch.chdir(tmp_path)
    run = lf.run(DISTILL, tmp_path / "runs" / "small")
    done = call("runs/small", "--use", "torch-export")
    assert done.exit_code == 0, done.output
    task = run.recipe.task_of(run.recipe.stages[-1]).load()
    assert f"proved on {len(task.test)} images: accuracy" in done.output
    last = list(run.artifacts)[-1]
    assert f"the network's {run.artifacts[last].metrics['test_accuracy']:.1%}" in done.output
    assert Path(f"runs/small-{last}-torch-export/export/model.pt2").is_file()
    words = ["runs/small/first", "--use", "torch-export", "--to", f"runs/small-{last}-torch-export"]
    assert "would be run again" in str(call(*words).exception)
    assert call(*words, "--overwrite").exit_code == 0
    before = Path("runs/small/run.json").read_text()
    for more in ([], ["--overwrite"]):
        done = call("runs/small", "--use", "torch-export", "--to", "runs/small", *more)
        assert "is the folder of a recipe's run, which would be lost" in str(done.exception)
    assert Path("runs/small/run.json").read_text() == before
    (tmp_path / "runs" / "copy").mkdir()
    for name in ("first", "second"):
        shutil.copytree(f"runs/small/{name}", f"runs/copy/{name}")
    shutil.copytree(f"runs/small-{last}-torch-export/export", "runs/copy/export")
    done = call("runs/copy/export")
    words = "runs/copy/export is an export already; name the stage that made its network: "
    assert words in str(done.exception)
    assert str(done.exception).endswith("runs/copy/first, " + str(tmp_path / "runs/copy/second"))
    done = call(f"runs/small-{last}-torch-export")
    assert "is an export already; name the stage" in str(done.exception)
    monkeypatch.chdir(tmp_path / "runs" / "small" / "first")
    assert call(".", "--use", "torch-export", "--to", tmp_path / "here").exit_code == 0
    recipe = tmp_path / "runs" / "small" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace('name = "first"', 'name = "renamed"'))
    assert "is no stage of" in str(call(".", "--use", "torch-export").exception)


def test_what_cannot_be_proved_is_refused(network: Path, tmp_path: Path) -> None:
    """A network without a task and images, classes that it does not know, and one that was taught none."""
    done = call(network, "--to", tmp_path / "out")
    assert "give labelled images with `--images FOLDER`" in str(done.exception)
    support = examples(tmp_path / "images", ["zero", "ona", "five"])
    done = call(network, "--images", support, "--to", tmp_path / "out")
    assert "must have the name of a class of the network; did you mean 'one'?" in str(done.exception)
    artifact = lf.load(network)
    evolve(artifact, adapter_options={"meta_learner": {"use": "maml"}}).save(tmp_path / "learner")
    done = call(tmp_path / "learner", "--images", support, "--to", tmp_path / "out")
    assert f"teach it some: learnforge adapt {tmp_path / 'learner'}" in str(done.exception)
    evolve(artifact, task=evolve(artifact.task, form="environment")).save(tmp_path / "policy")
    assert "its task is environment" in str(call(tmp_path / "policy", "--images", support).exception)
    evolve(artifact, task=evolve(artifact.task, form="regression")).save(tmp_path / "numbers")
    words = "folders of images are for networks that name their class, its task is regression"
    assert words in str(call(tmp_path / "numbers", "--images", support).exception)
    assert not (tmp_path / "out").exists()
