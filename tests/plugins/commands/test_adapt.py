"""`learnforge adapt`: new classes from a folder of examples, as many as there are, with an honest score."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import learnforge as lf
from learnforge import Artifact, ArtifactError, Plugins, Task
from learnforge.cli.group import cli
from learnforge.files import write_record
from learnforge_kit.engines.adaptation import with_ways
from learnforge_kit.engines.left_out import LeftOut, judge_left_out

NAMES = {4: "four", 7: "seven", 8: "eight", 9: "nine"}


@pytest.fixture(scope="module")
def known() -> Task:
    """Digits to learn to learn from."""
    return lf.load_task("digits", classes=[0, 1, 2, 3, 5, 6], test_classes=[4, 7], rotations=2)


@pytest.fixture(scope="module", params=[pytest.param("maml", marks=pytest.mark.slow), "protonet", "meta-sgd"])
def learner(request: pytest.FixtureRequest, known: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a short meta-training of two ways."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    options: dict[str, Any] = {"maml": {"inner_rate": 0.1, "inner_steps": 3}}
    method = lf.load_method(f"meta-learner.{request.param}")(**options.get(request.param, {}))
    lf.meta_train(
        lf.load_method("model.conv4")(width=16, blocks=3), method, known, ways=2, shots=3, queries=5,
        iterations=40, tasks=4, learning_rate=1e-2, engine="chain", test_episodes=400, run=folder,
    )  # fmt: skip
    return folder


def examples(folder: Path, classes: list[int], count: int) -> Path:
    """Write so many training images of each digit into a folder of its own."""
    task = lf.load_task("digits", classes=classes)
    for label, digit in enumerate(classes):
        (folder / NAMES[digit]).mkdir(parents=True)
        places = (task.train.labels == label).nonzero().flatten()[:count].tolist()
        for place in places:
            pixels = task.train.images[place, 0].numpy()  # type: ignore[attr-defined]
            Image.fromarray(pixels).save(folder / NAMES[digit] / f"{place}.png")
    return folder


def accuracy(artifact: Artifact, classes: list[int]) -> float:
    """Judge an adapted network on unseen images."""
    task = lf.load_task("digits", classes=classes)
    order = [artifact.task.classes.index(NAMES[digit]) for digit in classes]
    told = artifact.predict(task.test.images).argmax(1)  # type: ignore[attr-defined]
    return float((told == torch.tensor(order)[task.test.labels]).double().mean())


@pytest.mark.parametrize("classes", [[4, 7], [4, 7, 8, 9]])
def test_new_classes_are_learnt_from_a_folder(learner: Path, tmp_path: Path, classes: list[int]) -> None:
    """As many classes as in meta-training, or more; the result names unseen images by the folders' names."""
    support = examples(tmp_path / "few", classes, 5)
    (support / "four" / "bad.png").write_bytes(b"")
    (support / "four" / "photo.heic").write_bytes(b"")
    (support / "stray.png").write_bytes(b"")
    words = ["adapt", str(learner), "--support", str(support), "--to", str(tmp_path / "new")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"learnt {len(classes)} classes from {5 * len(classes)} examples" in done.output
    assert "four (5)" in done.output
    assert "bad.png cannot be read as an image" in done.output
    assert "photo.heic has no ending of an image that is read: .bmp" in done.output
    assert "stray.png is in no class's folder" in done.output
    found = lf.load(tmp_path / "new")
    assert found.task.classes == tuple(sorted(NAMES[digit] for digit in classes))
    assert found.adapter_options == {}
    assert ("in meta-training there were 2 classes at a time" in done.output) == (len(classes) != 2)
    shown = found.metrics["left_out_accuracy"]
    assert shown is not None
    count = 5 * len(classes)
    of = f"({count} of {count} examples, {len(classes)} of {len(classes)} classes)"
    low, high = found.metrics["left_out_interval"]
    assert low < shown <= high
    interval = f"95 % interval {100 * low:.0f} to {100 * high:.0f} %"
    assert f"accuracy on left-out examples: {shown:.1%}, {interval} {of}" in done.output
    assert {f"few:{NAMES[digit]}" for digit in classes} <= found.provenance.origins
    least = 0.6 if "protonet" in str(learner) else 0.5
    assert accuracy(found, classes) > (0.85 if len(classes) == 2 else least)
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "new"), str(support / "seven")])
    assert done.stdout.count(",seven,") >= 3


def test_left_out_examples_are_not_learnt_from(learner: Path) -> None:
    """One of each class is left out at a time, and judged by a network that was taught the others alone."""
    plugins, artifact = Plugins(), lf.load(learner)
    task = lf.load_task("digits", classes=[4, 7])
    places = torch.cat([(task.train.labels == label).nonzero().flatten()[:4] for label in (0, 1)])
    images = task.train.images[places]  # type: ignore[attr-defined]
    labels = task.train.labels[places]
    right = 0
    for place in range(4):
        is_out = torch.arange(8) % 4 == place
        alone = lf.adapt(artifact, images[~is_out], labels[~is_out])
        right += int((alone.predict(images[is_out]).argmax(1) == labels[is_out]).sum())
    images = artifact.normalise(images)
    found = judge_left_out(artifact, images, labels, plugins, ["a", "b"])
    assert (found.right, found.judged, found.classes) == (right, 8, 2)
    single = torch.tensor([0, 4])
    none = judge_left_out(artifact, images[single], labels[single], plugins, ["a", "b"])
    assert (none.accuracy, none.interval, none.judged, none.classes) == (None, None, 0, 0)
    uneven = torch.tensor([0, 1, 2, 4])  # the only one of its class is never left out
    most = judge_left_out(artifact, images[uneven], labels[uneven], plugins, ["a", "b"])
    assert (most.judged, most.classes) == (3, 1)
    assert most.accuracy == most.right / 3


@pytest.mark.parametrize(
    ("right", "judged", "expected"),
    [(24, 25, (0.8046, 0.9929)), (25, 25, (0.8668, 1.0)), (0, 10, (0.0, 0.2775)), (5, 10, (0.2366, 0.7634))],
)
def test_the_interval_is_wilsons(right: int, judged: int, expected: tuple[float, float]) -> None:
    """As scipy.stats.binomtest(right, judged).proportion_ci(method="wilson") has it."""
    assert LeftOut(right, judged, 2).interval == pytest.approx(expected, abs=1e-4)


def test_rates_of_as_many_steps_as_classes_stay(known: Task) -> None:
    """MAML's learned rates have an entry for each step, also where there are as many steps as classes."""
    plugins = Plugins()
    method = lf.load_method("meta-learner.maml")(inner_rate=0.1, inner_steps=2, learned_rates=True)
    network = lf.load_method("model.conv4")(width=4, blocks=2)
    artifact = lf.meta_train(
        network, method, known, ways=2, queries=2, iterations=1, tasks=2, test_episodes=400
    )
    wide = with_ways(artifact, ["a", "b", "c"], plugins)
    assert {name: t.shape for name, t in wide.adapter.items()} == {
        name: t.shape for name, t in artifact.adapter.items()
    }
    images, labels = torch.rand(3, 1, 8, 8), torch.arange(3)
    assert lf.adapt(artifact, images, labels, classes=["a", "b", "c"]).predict(images).shape == (3, 3)


def test_outputs_of_other_ways(learner: Path) -> None:
    """Fewer classes have the first outputs, more have them again in turn; one class is refused."""
    plugins, artifact = Plugins(), lf.load(learner)
    images = torch.rand(3, 1, 8, 8)
    wide = with_ways(artifact, ["a", "b", "c"], plugins)
    old = artifact.predict(images)
    assert torch.equal(wide.predict(images), old[:, [0, 1, 0]])
    again = with_ways(wide, ["x", "y"], plugins)
    assert torch.equal(again.predict(images), old)
    assert again.task.classes == ("x", "y")
    steps = wide.adapter_options["meta_learner"].get("adaptation_steps")
    assert steps == (None if "protonet" in str(learner) else 10)
    with pytest.raises(ArtifactError, match="two classes at least"):
        with_ways(artifact, ["a"], plugins)


def test_what_archives_bring_along_is_no_class(learner: Path, tmp_path: Path) -> None:
    """`__MACOSX` and hidden folders are passed over; an image that two classes share is warned of."""
    support = examples(tmp_path / "two", [4, 7], 2)
    (four, _) = sorted(path for path in support.iterdir())
    for name in ("__MACOSX", ".ipynb_checkpoints"):
        shutil.copytree(four, support / name)
    command = ["adapt", str(learner), "--support", str(support), "--to", str(tmp_path / "new")]
    done = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert "learnt 2 classes from 4 examples" in done.output
    assert "in common" not in done.output
    shutil.copytree(four, support / "same")
    done = CliRunner().invoke(cli, [*command, "--overwrite"], catch_exceptions=False)
    assert f"warning: {four.name} and same have an image in common" in done.output


def test_labels_in_python_may_be_a_list(learner: Path) -> None:
    """Names instead of numbers, and an artifact that learns nothing, are refused in words."""
    artifact, images = lf.load(learner), torch.rand(2, 1, 8, 8)
    taught = lf.adapt(artifact, images, [0, 1])
    assert torch.equal(taught.predict(images), lf.adapt(artifact, images, torch.arange(2)).predict(images))
    with pytest.raises(ArtifactError, match=r"labels must be numbers, .*; names go into `classes`"):
        lf.adapt(artifact, images, ["four", "seven"])  # type: ignore[list-item]
    with pytest.raises(ArtifactError, match="only what a `meta` stage made can adapt"):
        lf.adapt(taught, images, [0, 1, 2])


def test_what_cannot_be_done_is_said(learner: Path, tmp_path: Path) -> None:
    """One class alone, a class without images, a folder that is taken, a run that has no learner."""

    def words(*more: object) -> str:
        done = CliRunner().invoke(cli, ["adapt", *map(str, more)])
        assert done.exit_code
        return str(done.exception) + done.output

    one = examples(tmp_path / "one", [4], 2)
    assert "a folder for each of two classes at least, it holds 1" in words(learner, "--support", one)
    (one / "empty").mkdir()
    empty = words(learner, "--support", one)
    assert "class empty: there is no image in" in empty
    assert "Put examples there, or take the folder away" in empty
    two = examples(tmp_path / "two", [4, 7], 1)
    lf.load(learner).save(tmp_path / "full")
    there = words(learner, "--support", two, "--to", tmp_path / "full")
    assert "is not empty; choose a new folder" in there
    assert "a file or a run's folder" in words(learner, "--support", two, "--to", learner)
    done = CliRunner().invoke(
        cli, ["adapt", str(learner), "--support", str(two), "--to", str(tmp_path / "full"), "--overwrite"]
    )
    assert "unknown, there is one of each class" in done.output
    (tmp_path / "run" / "first").mkdir(parents=True)
    lf.load(tmp_path / "full").save(tmp_path / "run" / "first")
    write_record(tmp_path / "run" / "run.json", {"stages": [{"name": "first"}]})
    assert "holds no finished meta stage" in words(tmp_path / "run", "--support", two)
    assert "only what a `meta` stage made can adapt" in words(tmp_path / "full", "--support", two)
