"""Validators: scores by hand, and their extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from learnforge import Evidence, Plugins

SURE = torch.tensor([[200.0, 0.0], [0.0, 200.0]])
SAME = torch.tensor([[200.0, 0.0], [200.0, 0.0]])
GUESS = torch.zeros(2, 2)
MIXED = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()


@pytest.fixture
def score(plugins: Plugins):
    """Score a network by its scores on the new task, and on the labelled one."""

    def compute(name: str, target: Tensor, source: Tensor = SURE) -> float:
        found = plugins.load("validator", name)().score(Evidence(source, torch.tensor([0, 1]), target))
        return float(found)

    return compute


def test_entropy(score) -> None:
    """Minus the mean entropy: 0 at best, -log 2 for a guess between two, by hand in between."""
    assert score("entropy", SURE) == pytest.approx(0.0)
    assert score("entropy", SAME) == pytest.approx(0.0)
    assert score("entropy", GUESS) == pytest.approx(-math.log(2))
    mixed = 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    assert score("entropy", MIXED) == pytest.approx((mixed - math.log(2)) / 2)


def test_infomax_is_not_fooled_by_one_class_for_all(score) -> None:
    """log 2 for sure and different, 0 for sure and all the same, 0 for a guess; by hand in between."""
    assert score("infomax", SURE) == pytest.approx(math.log(2))
    assert score("infomax", SAME) == pytest.approx(0.0)
    assert score("infomax", GUESS) == pytest.approx(0.0)
    mean = -(0.375 * math.log(0.375) + 0.625 * math.log(0.625))
    mixed = 0.25 * math.log(0.25) + 0.75 * math.log(0.75)
    assert score("infomax", MIXED) == pytest.approx(mean + (mixed - math.log(2)) / 2)


def test_source_accuracy_looks_at_the_labelled_task_alone(score) -> None:
    """The share of labelled images that are right, whatever the new task's scores."""
    assert score("source-accuracy", GUESS) == 1.0
    assert score("source-accuracy", SURE, SAME) == 0.5
