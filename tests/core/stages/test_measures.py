"""What stages measure of a network: accuracy by class, mistakes, and no more than a report needs."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge import MemorySplit, Task
from learnforge.stages import measures
from learnforge.stages.measures import class_accuracies, find_mistakes, judge

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
