"""The built-in recipe `pipeline`: from folders of images and published weights to a few-shot learner."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from learnforge.cli.group import cli

CLASSES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen")
SHORT = {
    "task.size": 32,
    "stage.transfer.task.size": 32,
    "stage.meta.task.size": 32,
    "task.classes": '["ant", "bee", "cat"]',
    "stage.transfer.task.classes": '["dog", "elk"]',
    "stage.meta.task.classes": '["ant", "bee", "cat", "dog", "elk"]',
    "stage.meta.task.test_classes": '["fox", "gnu", "hen"]',
    "stage.search.trials": 1,
    "stage.search.space": '{ use = "residual", stages = 1, blocks = 1, max_width = 8 }',
    "stage.search.train": "{ epochs = 1 }",
    "stage.search.retrain": "{ epochs = 1 }",
    "stage.distill.train": "{ epochs = 1, batch_size = 16, crop = 2 }",
    "stage.transfer.train": "{ epochs = 1, batch_size = 4, balanced = true }",
    "stage.meta.episodes": "{ ways = 2, shots = 1, queries = 1 }",
    "stage.meta.iterations": 1,
    "stage.meta.tasks": 1,
    "stage.meta.validation_episodes": 0,
    "stage.meta.test_episodes": 400,
    "stage.meta.options": "{ inner_rate = 0.05, inner_steps = 1 }",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight classes of twelve small colour images."""
    generator = np.random.default_rng(0)
    for place, name in enumerate(CLASSES):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            noise = generator.integers(0, 200, (32, 32, 3))
            noise[:, :, place % 3] += 50
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random weights of the student, where torchvision keeps its published ones."""
    from torchvision import models

    file = tmp_path / "torch" / "hub" / "checkpoints" / "mobilenet_v3_small-047dcff4.pth"
    file.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(models.mobilenet_v3_small().state_dict(), file)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return file


def run(photos: Path, folder: Path) -> None:
    roots = {f"{place}task.root": photos for place in ("", "stage.transfer.", "stage.meta.")}
    changes = [f"--set={key}={value}" for key, value in {**roots, **SHORT, "run.device": "cpu"}.items()]
    words = ["run", "pipeline", *changes, "--run", str(folder)]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output


@pytest.mark.slow
def test_the_whole_road_from_published_weights(photos: Path, cache: Path, tmp_path: Path) -> None:
    """Every stage runs offline; at most a tenth of the parameters moves in the transfer, all from the file's
    values for a start; what is exported computes what the network does.
    """
    run(photos, tmp_path / "run")

    def metrics(stage: str) -> dict:  # type: ignore[type-arg]
        found: dict = json.loads((tmp_path / "run" / stage / "metrics.json").read_text())  # type: ignore[type-arg]
        return found

    from safetensors.torch import load_file

    distilled, carried = (
        load_file(tmp_path / "run" / stage / "weights.safetensors") for stage in ("distill", "transfer")
    )
    moved = [name for name, t in carried.items() if not torch.equal(t, distilled.get(name, torch.empty(0)))]
    assert {name.partition("/")[2] for name in moved} == {"classifier.3.weight", "classifier.3.bias"}
    assert sum(carried[name].numel() for name in moved) <= 0.1 * metrics("transfer")["parameters"]
    published = torch.load(cache, weights_only=True)
    stem = "features.0.0.weight"
    assert float((distilled[f"weights/{stem}"] - published[stem]).abs().max()) < 0.1
    assert metrics("distill")["teacher_forwards"]["asked"] > 0
    assert metrics("transfer")["changes"] == ["3 → 2 classes: new head"]
    assert metrics("meta")["seen_upstream"] == []
    assert metrics("export")["is_equal"]
    assert (tmp_path / "run" / "report.html").exists()


def test_without_the_weights_nothing_is_computed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline and without a cached file the run ends with what to fetch, before its first stage."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def refuse(*given: object, **named: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(Exception, match=r"mobilenet_v3_small-047dcff4\.pth.*cannot be downloaded"):
        run(photos, tmp_path / "run")
    assert not (tmp_path / "run" / "search").exists()
