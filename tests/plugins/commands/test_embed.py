"""`learnforge embed`: features of images on the disk, by a run's network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import learnforge as lf
import learnforge_kit as kit
from learnforge import Plugins, TaskInfo
from learnforge.artifact import from_model
from learnforge.cli.group import cli
from learnforge.files import write_record

NAMES = ("a", "b")


@pytest.fixture
def run(tmp_path: Path, plugins: Plugins) -> Path:
    """A run's folder with one finished stage of two."""
    info = TaskInfo("grey", NAMES, NAMES, (1, 8, 8), (0.5,), (0.25,))
    artifact = from_model(plugins.load("model", "conv4")(width=4, blocks=2), info)
    artifact.with_state(artifact.network(plugins)).save(tmp_path / "run" / "first")
    write_record(tmp_path / "run" / "run.json", {"stages": [{"name": "first"}, {"name": "transfer"}]})
    return tmp_path / "run"


def test_features_are_written_with_the_files_names(run: Path, tmp_path: Path, plugins: Plugins) -> None:
    """Of the last finished stage's network; files that are no images are named, and left out."""
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    (tmp_path / "photos").mkdir()
    for place in range(3):
        Image.fromarray(pixels * (place + 1)).save(tmp_path / "photos" / f"{place}.png")
    (tmp_path / "photos" / "bad.png").write_bytes(b"")
    target = tmp_path / "new" / "features.npz"
    words = ["embed", str(run), str(tmp_path / "photos"), "--to", str(target)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "bad.png cannot be read as an image" in done.output
    with np.load(target) as data:
        found = dict(data)
    assert [Path(name).name for name in found["files"]] == ["0.png", "1.png", "2.png"]
    artifact = lf.load(run)
    network = artifact.network(plugins).eval()
    images = torch.stack([torch.from_numpy(pixels * (place + 1))[None] for place in range(3)])
    caught: list[torch.Tensor] = []
    head = network.get_submodule(kit.find_head(network, artifact.task))
    head.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
    with torch.no_grad():
        network(artifact.normalise(images))
    torch.testing.assert_close(torch.from_numpy(found["features"]), caught[0])
    assert f"3 images, {caught[0].shape[1]} features of embedding" in done.output


def test_unknown_layers_and_empty_runs_are_named(run: Path, tmp_path: Path) -> None:
    """A layer that is not there, and a run that has finished nothing."""
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    layer = CliRunner().invoke(cli, ["embed", str(run), str(tmp_path / "x.png"), "--layer", "stage 9"])
    assert "no 'stage 9'" in str(layer.exception)
    (run / "first" / "artifact.json").unlink()
    empty = CliRunner().invoke(cli, ["embed", str(run), str(tmp_path / "x.png")])
    assert "holds no finished stage yet" in str(empty.exception)
