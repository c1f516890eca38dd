"""Each fault of a score, a cost or a table turns the check red that is meant for it.

Reference: https://example.org/meters
"""

from __future__ import annotations

import itertools
import math
import os
from typing import Any, ClassVar

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from learnforge import CostMeter, Published, Score, Space, Table, TaskInfo, Trained
from learnforge_testing.landscapes import Letters
from learnforge_testing.suites.cost import CostSuite
from learnforge_testing.suites.score import ScoreSuite
from learnforge_testing.suites.table import TableSuite

CALLS = itertools.count(1_000_000 * os.getpid())  # in another process they are others
LINEAR = "network_of_linear_layers_is_scored"
SAME = ("random_state_is_untouched", "result_is_the_same_in_another_process")


def failed(suite: type[Any], method: type[Any]) -> set[str]:
    """Run a suite and return the checks that fail."""
    return {outcome.name for outcome in suite.of(method).run() if outcome.state == "failed"}


@frozen
class Outputs(Score):
    """The mean absolute output."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        with torch.no_grad():
            return float(network(images).abs().mean())


@frozen
class Infinite(Outputs):
    """Never finite."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        return math.inf


@frozen
class Counting(Outputs):
    """Counts its calls."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        return float(next(CALLS))


@frozen
class Scribbling(Outputs):
    """Writes into the batch."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        found = Outputs.score(self, network, images, labels)
        images.zero_()
        return found


@frozen
class Whole(Outputs):
    """Gives a whole number, the same for all."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        return 1


@frozen
class Convolutions(Outputs):
    """Fails on networks without convolutions."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        Outputs.score(self, network, images, labels)
        weights = [layer.weight for layer in network.modules() if isinstance(layer, nn.Conv2d)]
        return float(weights[0].detach().abs().sum())


@frozen
class Closing(Outputs):
    """Switches gradients off and leaves them so."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        found = Outputs.score(self, network, images, labels)
        torch.set_grad_enabled(False)
        return found


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Outputs, set()),
        (Infinite, {"score_is_a_finite_number", "networks_have_different_scores", LINEAR}),
        (Counting, {"equal_networks_have_equal_scores", *SAME}),
        (Scribbling, {"images_are_left_alone"}),
        (Whole, {"score_is_a_finite_number", "networks_have_different_scores"}),
        (Convolutions, {LINEAR}),
        (Closing, {"gradient_mode_is_left_alone"}),
    ],
)  # fmt: skip
def test_faults_of_scores(method: type[Any], expected: set[str]) -> None:
    """A sound score passes; each faulty one fails where it is faulty."""
    try:
        assert failed(ScoreSuite, method) == expected
    finally:
        torch.set_grad_enabled(True)


@frozen
class Kib(CostMeter):
    """KiB of weights."""

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        return sum(p.numel() for p in network.parameters()) / 256


@frozen
class Negative(Kib):
    """Below zero."""

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        return -1.0


@frozen
class Labelled(Kib):
    """Has a label that cannot stand in a recipe."""

    @property
    def label(self) -> str:
        return "my phone"


@frozen
class Drifting(Kib):
    """Is another number each time."""

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        return float(next(CALLS))


@frozen
class Hooked(Kib):
    """Leaves a hook behind."""

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        network.register_forward_hook(lambda layer, inputs, output: None)
        return Kib.measure(self, network, task)


@frozen
class Training(Kib):
    """Puts the network into training mode."""

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        network.train()
        return Kib.measure(self, network, task)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Kib, set()),
        (Negative, {"cost_is_a_number_from_zero"}),
        (Labelled, {"label_is_a_name"}),
        (Drifting, {"equal_networks_cost_the_same", *SAME}),
        (Hooked, {"network_is_left_alone"}),
        (Training, {"network_is_left_alone"}),
    ],
)  # fmt: skip
def test_faults_of_costs(method: type[Any], expected: set[str]) -> None:
    """A sound cost passes; each faulty one fails where it is faulty."""
    assert failed(CostSuite, method) == expected


@frozen
class Words(Table):
    """81 words."""

    spaces: ClassVar[Any] = Letters((3, 3, 3, 3))

    def space(self) -> Space:
        return self.spaces  # type: ignore[no-any-return]

    def train(self, design: Any, choices: Any) -> Trained:
        return Trained(float(sum(map(ord, design.values()))), 10.0)

    def test(self, design: Any, choices: Any) -> float:
        return 90.0

    def best(self) -> float:
        return 4.0 * ord("c")

    def predict_costs(self, design: Any) -> dict[str, float]:
        return {"size": 1.0}


@frozen
class Gaps(Words):
    """Lacks a row."""

    def train(self, design: Any, choices: Any) -> Trained:
        if list(design.values()) == list("abca"):
            raise KeyError("abca")
        return Words.train(self, design, choices)


@frozen
class Free(Words):
    """Trainings that cost nothing."""

    def train(self, design: Any, choices: Any) -> Trained:
        return Trained(1.0, 0.0)


@frozen
class Beaten(Words):
    """Says a best that is not."""

    def best(self) -> float:
        return 0.0


@frozen
class Scoreless(Words):
    """Names a score that it does not give."""

    def scores(self) -> tuple[str, ...]:
        return ("naswot",)


@frozen
class Unsourced(Words):
    """A figure from nowhere."""

    def published(self) -> tuple[Published, ...]:
        return (Published("random", 1.0, 0.0, ""),)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (Words, set()),
        (Gaps, {"every_design_is_in_the_table", "best_is_not_beaten", "a_search_runs_over_it"}),
        (Free, {"every_design_is_in_the_table"}),
        (Beaten, {"best_is_not_beaten"}),
        (Scoreless, {"scores_are_known_beforehand"}),
        (Unsourced, {"published_figures_name_their_source"}),
    ],
)
def test_faults_of_tables(method: type[Any], expected: set[str]) -> None:
    """A sound table passes; each faulty one fails where it is faulty."""
    assert expected <= failed(TableSuite, method) if expected else failed(TableSuite, method) == set()
