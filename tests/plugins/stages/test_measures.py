"""What stages measure of a network: accuracy by class, mistakes, and no more than a report needs."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
import torch
from attrs import evolve
from PIL import Image
from torch import Tensor, nn

from learnforge import Task
from learnforge_kit import MemorySplit
from learnforge_kit.data.images import as_png
from learnforge_kit.training import measures
from learnforge_kit.training.measures import class_accuracies, find_mistakes, find_most_wrong, judge

COUNTS = torch.tensor([[3, 1, 0], [2, 0, 2], [0, 0, 0]])


class Constant(nn.Module):
    """Names one class for everything."""

    def forward(self, images: Tensor) -> Tensor:
        scores = torch.zeros(len(images), 3)
        scores[:, 1] = 1.0
        return scores


def test_accuracy_of_each_class() -> None:
    """Right over all of the row; a class without images has none."""
    assert class_accuracies(COUNTS) == [0.75, 0.0, None]


def test_mistakes_by_how_often_they_are_made() -> None:
    """Most frequent first, equals in their order; what never happens is left out."""
    assert find_mistakes(COUNTS) == [[1, 0, 2], [1, 2, 2], [0, 1, 1]]
    assert find_mistakes(COUNTS, 1) == [[1, 0, 2]]


def test_all_confusions_are_kept_for_few_classes_only(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit accuracies and mistakes remain."""
    test = MemorySplit(task.test.images[:4], torch.tensor([0, 1, 1, 2]))  # type: ignore[attr-defined]
    small = evolve(task, test=test)
    found = judge(Constant(), small, "x_")
    assert found["x_confusion"] == [[0, 1, 0], [0, 2, 0], [0, 1, 0]]
    assert found["x_class_accuracy"] == [0.0, 1.0, 0.0]
    assert found["x_mistakes"] == [[0, 1, 1], [2, 1, 1]]
    monkeypatch.setattr(measures, "MOST_CLASSES", 2)
    assert set(found) - set(judge(Constant(), small, "x_")) == {"x_confusion"}


def test_the_most_wrong_images_are_kept(task: Task) -> None:
    """Those with the highest confidence in a wrong class, the highest first, as PNG."""
    images = task.test.images[:6]  # type: ignore[attr-defined]
    labels = torch.tensor([0, 1, 1, 2, 0, 1])
    logits = torch.tensor([[0.0, 1, 0], [0, 9, 0], [5, 0, 0], [0, 3, 0], [9, 0, 0], [0, 0, 0.5]])
    found = find_most_wrong(logits, MemorySplit(images, labels), most=3)
    assert [(own["true"], own["predicted"]) for own in found] == [(1, 0), (2, 1), (0, 1)]
    assert [own["confidence"] for own in found] == pytest.approx(
        [float(logits[k].softmax(0).max()) for k in (2, 3, 0)]
    )
    for own, place in zip(found, (2, 3, 0), strict=True):
        with Image.open(io.BytesIO(base64.b64decode(own["image"]))) as opened:
            assert torch.equal(torch.from_numpy(np.asarray(opened).copy()), images[place, 0])


def test_large_images_are_shrunk() -> None:
    """To 96 pixels of the longer side; of two channels the first is shown."""
    for channels, mode in ((1, "L"), (2, "L"), (3, "RGB")):
        text = as_png(torch.zeros(channels, 100, 200, dtype=torch.uint8))
        with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
            assert opened.size == (96, 48)
            assert opened.mode == mode


def test_confidence_is_measured_of_the_stages_own_network(task: Task) -> None:
    """With calibration by the validation split's temperature; not for baselines and teachers."""
    found = judge(Constant(), task)
    shares = torch.tensor([0.0, 1.0, 0.0]).softmax(0)
    own = float((task.test.labels == 1).double().mean())
    assert found["calibration_error"] == pytest.approx(abs(float(shares[1]) - own), abs=1e-6)
    (point,) = found["reliability"]
    assert point == pytest.approx([float(shares[1]), own, len(task.test)])
    assert "temperature" not in found  # the flatter the better, for scores that say nothing
    assert len(found["most_wrong"]) == 12
    assert not any("calibration" in name for name in judge(Constant(), task, "baseline_"))
