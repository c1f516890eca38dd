"""`learnforge predict`: by a folder or an exported file, as CSV or JSON, with bad files named."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from click.testing import CliRunner
from PIL import Image

import learnforge as lf
from learnforge import Plugins, Task
from learnforge.artifact import from_model
from learnforge.cli.group import cli


@pytest.fixture(scope="module")
def digits() -> Task:
    """Real images of three digits."""
    return lf.load_task("digits", classes=[3, 5, 9])


@pytest.fixture(scope="module")
def exported(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an export stage, which holds the network and its file."""
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    network = from_model(Plugins().load("model", "conv4")(width=4, blocks=2), digits.info)
    lf.export(network.with_state(network.network()), digits, "torch-export", run=folder)
    return folder / "export"


@pytest.fixture(scope="module")
def photos(digits: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five test images as files, and one that is none."""
    folder = tmp_path_factory.mktemp("photos")
    images: Any = digits.test.images  # type: ignore[attr-defined]
    for number in range(5):
        Image.fromarray(images[number, 0].numpy()).save(folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def call(*words: object, given: str | None = None) -> Any:
    """Call the command; its status says whether a file was left out."""
    done = CliRunner().invoke(cli, ["predict", *map(str, words)], input=given)
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert done.exit_code == ("left out" in done.stderr), done.output
    return done


def expected(exported: Path, digits: Task) -> torch.Tensor:
    return lf.load(exported).predict(digits.test.images[:5]).softmax(1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("source", ["", "model.pt2"])
def test_files_are_named_with_their_class(exported: Path, photos: Path, digits: Task, source: str) -> None:
    """A line for each image, class and confidence those of the network; what is no image is told of."""
    done = call(exported / source, photos, "--trust")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    shares = expected(exported, digits)
    assert [Path(row["file"]).name for row in rows] == [f"{number}.png" for number in range(5)]
    assert [row["class"] for row in rows] == [digits.info.classes[k] for k in shares.argmax(1).tolist()]
    assert [float(row["confidence"]) for row in rows] == pytest.approx(shares.amax(1).tolist(), abs=1e-4)
    assert "left out" in done.stderr
    assert f"named by {exported / source}" in done.stderr
    assert "bad.png cannot be read as an image" in done.stderr


def test_a_file_needs_nothing_beside_it(exported: Path, photos: Path, tmp_path: Path) -> None:
    """Moved elsewhere under another name, it still knows its classes."""
    shutil.copy(exported / "model.pt2", tmp_path / "moved.pt2")
    moved, whole = (
        call(file, photos, "--trust").stdout for file in (tmp_path / "moved.pt2", exported / "model.pt2")
    )
    assert moved == whole


def test_a_rejected_file_is_used_with_a_warning(exported: Path, photos: Path, tmp_path: Path) -> None:
    """Who inspects it is told that it is not the network."""
    shutil.copy(exported / "model.pt2", tmp_path / "rejected-model.pt2")
    manual = json.loads((exported / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**manual, "file": "rejected-model.pt2"}))
    done = call(tmp_path / "rejected-model.pt2", photos / "1.png", "--trust")
    assert "warning: rejected-model.pt2 failed its proof" in done.stderr
    assert "warning" not in call(exported / "model.pt2", photos / "1.png", "--trust").stderr


def test_lines_of_json_have_all_shares(exported: Path, photos: Path, digits: Task, tmp_path: Path) -> None:
    """With `--json` each line is an object; `--to` writes it."""
    target = tmp_path / "new" / "found.jsonl"
    done = call(exported, photos / "2.png", photos / "0.png", "--json", "--to", target)
    assert str(target) in done.stdout
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    shares = expected(exported, digits)
    for row, number in zip(rows, (2, 0), strict=True):
        assert list(row["shares"]) == list(digits.info.classes)
        assert list(row["shares"].values()) == pytest.approx(shares[number].tolist(), abs=1e-6)
        assert row["class"] == max(row["shares"], key=row["shares"].get)


def test_a_list_comes_on_standard_input(exported: Path, photos: Path) -> None:
    """`-` reads a file's name from each line; one that is not there is told of."""
    done = call(exported, "-", given=f"{photos / '4.png'}\r\nnowhere.png\n{photos / '1.png'}\n")
    assert "left out: nowhere.png is not there" in done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [Path(row["file"]).name for row in rows] == ["4.png", "1.png"]


def test_what_cannot_be_done_is_said(exported: Path, photos: Path, tmp_path: Path) -> None:
    """No readable file, a file that no export stage wrote, and another file's manual."""
    done = CliRunner().invoke(cli, ["predict", str(exported), str(photos / "bad.png")])
    assert done.exit_code
    assert "none of the files can be read as an image" in str(done.exception)
    (tmp_path / "model.pt2").write_bytes(b"")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "model.pt2"), str(photos)])
    assert "must be a whole file that an export stage wrote, with its manual inside" in str(done.exception)
    (tmp_path / "model.json").write_text("{}")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "model.pt2"), str(photos)])
    assert "the `model.json` beside it, is damaged: KeyError: 'file'" in str(done.exception)
    (tmp_path / "model.json").write_text((exported / "model.json").read_text())
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "model.pt2"), str(photos)])
    assert "model.pt2 must be of a format that an installed exporter reads" in str(done.exception)
    (tmp_path / "other.pt2").write_bytes(b"")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "other.pt2"), str(photos)])
    assert "is that of model.pt2" in str(done.exception)
    whole = (exported / "model.pt2").read_bytes()
    with zipfile.ZipFile(exported / "model.pt2") as archive:
        inner = next(name for name in archive.namelist() if name.endswith("model.json"))
    (tmp_path / "model.pt2").write_bytes(whole.replace(inner.encode(), inner[::-1].encode()))
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "model.pt2"), str(photos), "--trust"])
    assert "model.pt2 cannot be run by torch-export" in str(done.exception)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_file_that_may_hold_code_wants_trust(exported: Path, photos: Path) -> None:
    """A `.pt2` is read by torch, which runs what its author put there."""
    done = CliRunner().invoke(cli, ["predict", str(exported / "model.pt2"), str(photos)])
    assert "model.pt2 may hold code, which runs when it is read: say `--trust`" in str(done.exception)
    assert call(exported / "model.pt2", photos, "--trust").stdout


@pytest.mark.parametrize("name", ["model.onnx", "model.int8.onnx", "model.txt", "model.pt2"])
def test_a_file_cannot_choose_what_reads_it(exported: Path, photos: Path, tmp_path: Path, name: str) -> None:
    """A pickle under another ending, whose manual names torch's exporter, is refused and not run."""
    mark = tmp_path / "it ran"
    torch.save(Payload(mark), tmp_path / name)
    manual = json.loads((exported / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**manual, "file": name}))
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / name), str(photos)])
    assert done.exit_code
    assert isinstance(done.exception, lf.ArtifactError), done.exception
    assert not mark.exists()
    torch.load(tmp_path / name, weights_only=False)
    assert mark.exists(), "the payload must work, or this test shows nothing"


def export_onnx(digits: Task, folder: Path) -> Path:
    """Export a small network, and return its ONNX file."""
    network = from_model(Plugins().load("model", "conv4")(width=4, blocks=2), digits.info)
    lf.export(network.with_state(network.network()), digits, "onnx", run=folder / "run")
    return folder / "run" / "export" / "model.onnx"


def test_what_an_onnx_file_says_of_itself_chooses_no_reader(
    digits: Task, photos: Path, tmp_path: Path
) -> None:
    """Metadata that name torch's exporter leave it to onnxruntime."""
    onnx, file = pytest.importorskip("onnx"), export_onnx(digits, tmp_path)
    model = onnx.load(file)
    manual = json.loads(model.metadata_props[0].value)
    onnx.helper.set_model_props(
        model, {"learnforge": json.dumps({**manual, "exporter": {"use": "torch-export"}})}
    )
    before = call(file, photos).stdout
    onnx.save(model, file)
    assert call(file, photos).stdout == before


def test_a_damaged_manual_is_said(digits: Task, photos: Path, tmp_path: Path) -> None:
    """With the file, and what must hold."""
    onnx, file = pytest.importorskip("onnx"), export_onnx(digits, tmp_path)
    model = onnx.load(file)
    manual = json.loads(model.metadata_props[0].value)
    for damage, words in (
        ({"input": {**manual["input"], "shape": [1, 0, 8]}}, "sizes of at least 1"),
        ({"input": {**manual["input"], "shape": []}}, "sizes of at least 1"),
        ({"temperature": 0}, "a number above 0"),
        ({"temperature": "warm"}, "could not convert"),
        ({"classes": 3}, "not iterable"),
    ):
        onnx.helper.set_model_props(model, {"learnforge": json.dumps({**manual, **damage})})
        onnx.save(model, file)
        done = CliRunner().invoke(cli, ["predict", str(file), str(photos)])
        assert done.exit_code
        assert str(file) in str(done.exception)
        assert words in str(done.exception)


def test_an_onnx_file_names_what_its_network_does(digits: Task, photos: Path, tmp_path: Path) -> None:
    """Files, classes and shares, calibrated or not, are those of the folder, which torch computes."""
    torch.manual_seed(0)
    network = from_model(Plugins().load("model", "conv4")(width=4, blocks=2), digits.info)
    trained = evolve(network.with_state(network.network()), metrics={"temperature": 0.5})
    lf.export(trained, digits, "onnx", run=tmp_path / "run")
    folder = tmp_path / "run" / "export"
    for options in ([], ["--calibrated"]):
        done, whole = (call(s, photos, "--json", *options) for s in (folder / "model.onnx", folder))
        assert "bad.png cannot be read as an image" in done.stderr
        for by_file, own in zip(done.stdout.splitlines(), whole.stdout.splitlines(), strict=True):
            found, expected = json.loads(by_file), json.loads(own)
            assert found["file"] == expected["file"]
            assert found["class"] == expected["class"]
            assert found["shares"] == pytest.approx(expected["shares"], abs=1e-5)
            assert found["confidence"] == max(found["shares"].values())


def test_a_device_is_checked_for_a_file_too(exported: Path, photos: Path) -> None:
    """A device that is not there is an error, whatever the source."""
    words = ["predict", str(exported / "model.pt2"), str(photos), "--trust", "--device", "abacus"]
    done = CliRunner().invoke(cli, words)
    assert "must be `auto` or a device of this machine, got 'abacus'" in str(done.exception)


def test_networks_that_name_no_classes_are_refused(plugins: Plugins, tmp_path: Path, digits: Task) -> None:
    """A meta-learnt network has to be taught some first, a policy has none, and arrays are no files."""
    network = from_model(plugins.load("model", "mlp")(), digits.info)
    network = network.with_state(network.network(plugins))
    evolve(network, adapter_options={"meta_learner": {"use": "maml"}}).save(tmp_path / "learner")
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(tmp_path / "x.png")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "learner"), str(tmp_path / "x.png")])
    assert "teach it some: learnforge adapt" in str(done.exception)
    two = evolve(network.task, input_shape=(2, 8, 8), mean=(0.5,) * 2, std=(0.5,) * 2)
    wide = from_model(plugins.load("model", "mlp")(), two)
    wide.with_state(wide.network(plugins)).save(tmp_path / "two")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "two"), str(tmp_path / "x.png")])
    assert "takes images of 2 channels; files are read with 1 or 3" in str(done.exception)
    evolve(network, task=evolve(network.task, form="environment")).save(tmp_path / "policy")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "policy"), str(tmp_path / "x.png")])
    assert "the network answers for no files, its task is environment" in str(done.exception)
    evolve(network, task=evolve(network.task, inputs="floats")).save(tmp_path / "arrays")
    done = CliRunner().invoke(cli, ["predict", str(tmp_path / "arrays"), str(tmp_path / "x.png")])
    assert "nothing reads files into inputs of the shape [1, 8, 8]" in str(done.exception)


def test_an_old_file_stays_until_all_is_named(exported: Path, photos: Path, tmp_path: Path) -> None:
    """Where nothing can be named, `--to` leaves what was there; a folder is refused."""
    target = tmp_path / "named.csv"
    target.write_text("old")
    words = ["predict", str(exported), str(photos / "bad.png"), "--to"]
    assert CliRunner().invoke(cli, [*words, str(target)]).exit_code
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["named.csv"]
    assert "is a directory" in CliRunner().invoke(cli, [*words, str(tmp_path)]).output


def test_any_file_name_is_written(exported: Path, photos: Path, tmp_path: Path) -> None:
    """Names that are no UTF-8 come out as the bytes that they are."""
    name = os.fsencode(tmp_path) + b"/x\xff.png"
    with open(name, "wb") as stream:  # noqa: PTH123
        stream.write((photos / "1.png").read_bytes())
    target = tmp_path / "named.csv"
    call(exported, os.fsdecode(name), "--to", target)
    assert b"/x\xff.png," in target.read_bytes()


def test_confidence_can_be_calibrated(digits: Task, photos: Path, tmp_path: Path) -> None:
    """`--calibrated` divides scores by the temperature of the validation images, by the network, by its
    export stage and by the file; where none is known, that is said.
    """
    torch.manual_seed(0)
    network = from_model(Plugins().load("model", "conv4")(width=4, blocks=2), digits.info)
    trained = evolve(network.with_state(network.network()), metrics={"temperature": 0.5})
    lf.export(trained, digits, "torch-export", run=tmp_path / "run")
    trained.save(tmp_path / "trained")
    scores = trained.predict(digits.test.images[:5])  # type: ignore[attr-defined]
    stage = tmp_path / "run" / "export"
    for source in (tmp_path / "trained", stage, stage / "model.pt2"):
        for options, temperature in (([], 1.0), (["--calibrated"], 0.5)):
            rows = list(csv.DictReader(io.StringIO(call(source, photos, *options, "--trust").stdout)))
            expected = (scores / temperature).softmax(1).amax(1)
            assert [float(row["confidence"]) for row in rows] == pytest.approx(expected.tolist(), abs=1e-4)


def test_an_unknown_temperature_is_said(exported: Path, photos: Path) -> None:
    """A network that no stage has measured a temperature of is not calibrated in silence."""
    done = CliRunner().invoke(cli, ["predict", str(exported), str(photos), "--calibrated"])
    assert done.exit_code
    assert "no temperature is known of the network" in str(done.exception)


def test_names_of_files_command_neither_terminal_nor_spreadsheet(
    exported: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A formula gets an apostrophe, and control characters are spelt out in messages."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(photos / "1.png", "=cmd()|1.png")
    shutil.copy(photos / "1.png", "plain.png")
    (tmp_path / "bad\x1b[2J.png").write_bytes(b"no image")
    done = call(exported, "=cmd()|1.png", "plain.png", "bad\x1b[2J.png")
    assert [row["file"] for row in csv.DictReader(io.StringIO(done.stdout))] == ["'=cmd()|1.png", "plain.png"]
    assert "\x1b" not in done.stderr
    assert "left out: bad\\x1b[2J.png cannot be read" in done.stderr


def test_a_name_that_no_system_takes_does_not_stop_the_rest(exported: Path, photos: Path) -> None:
    """One of 300 characters, or with a zero in it, is told of as one that is not there."""
    done = call(exported, "-", given=f"{'x' * 300}.png\nzero\0.png\n{photos / '1.png'}\n")
    assert "x.png is not there" in done.stderr
    assert "zero\\x00.png is not there" in done.stderr
    assert done.stdout.count(".png") == 1
