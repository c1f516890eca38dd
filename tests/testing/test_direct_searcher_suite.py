"""Each fault of a searcher that is no sampler turns the check red that is meant for it.

Reference: https://example.org/searchers
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
import pytest
from attrs import frozen

from learnforge import Context, DirectSearcher, Searcher, Space, Task, View
from learnforge_kit import evaluate, train_on_labels
from learnforge_testing.direct_searcher import DirectSearcherSuite
from learnforge_testing.suites.searcher import SearcherSuite

CALLS = itertools.count()


@frozen
class Widest(DirectSearcher):
    """Trains the widest network, and names the widths in an order."""

    def find(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Sequence[Mapping[str, Any]]:
        import torch

        with torch.random.fork_rng():
            torch.manual_seed(context.seed)
            network = space.build({"width": 8}, task.info)
        train_on_labels(network, task, train, context, "widest")
        first = 8 if float(next(network.parameters()).detach().sum()) > 0 else 4
        return [{"width": first}, {"width": 12 - first}]


@frozen
class Inventing(Widest):
    """Finds what the space does not offer."""

    def find(self, *arguments: Any, **named: Any) -> Sequence[Mapping[str, Any]]:
        return [{"width": 5}]


@frozen
class Repeating(Widest):
    """Finds a design twice."""

    def find(self, *arguments: Any, **named: Any) -> Sequence[Mapping[str, Any]]:
        return [{"width": 4}, {"width": 4}]


@frozen
class Finding(Widest):
    """Finds nothing."""

    def find(self, *arguments: Any, **named: Any) -> Sequence[Mapping[str, Any]]:
        return []


@frozen
class Peeking(Widest):
    """Judges by the test split."""

    def find(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Sequence[Mapping[str, Any]]:
        evaluate(space.build({"width": 4}, task.info), task.test, task.info)
        return Widest.find(self, space, view, task, train, context)


@frozen
class Drawing(Widest):
    """Finds something else at each call."""

    def find(self, *arguments: Any, **named: Any) -> Sequence[Mapping[str, Any]]:
        return [{"width": (4, 8)[next(CALLS) % 2]}]


@frozen
class Forgetful(Widest):
    """Counts its epochs in memory, so that one that was cut off finds something else."""

    def find(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Sequence[Mapping[str, Any]]:
        heard = []
        for epoch in range(3):
            heard.append(context.folder is not None and any(context.folder.iterdir()))
            assert context.folder is not None
            (context.folder / f"{epoch}").touch()
            context.emit("epoch_finished", stage=context.stage, metrics={"epoch": epoch})
        return [{"width": 8 if heard[0] else 4}]


@frozen
class Sampling(Widest):
    """Samples options too, which it cannot."""

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return optuna.samplers.RandomSampler(seed=seed)


def failed(method: type[Searcher]) -> set[str]:
    """Run the suite that fits a method and return the checks that fail."""
    suite = SearcherSuite.fitting(method)
    assert suite is DirectSearcherSuite
    return {outcome.name for outcome in suite.of(method).run() if outcome.state == "failed"}


def test_a_right_searcher_passes() -> None:
    """Every check is green for one without a fault; samplers keep their own suite."""
    assert failed(Widest) == set()
    assert SearcherSuite.fitting(Searcher) is SearcherSuite


@pytest.mark.parametrize(
    ("method", "check"),
    [
        (Inventing, "designs_are_of_the_space"),
        (Repeating, "designs_are_of_the_space"),
        (Finding, "designs_are_of_the_space"),
        (Peeking, "test_data_are_not_read"),
        (Drawing, "seed_decides_the_search"),
        (Forgetful, "a_search_that_was_cut_off_goes_on"),
        (Sampling, "options_are_refused"),
    ],
)
def test_a_fault_is_found(method: type[Searcher], check: str) -> None:
    """The check that is meant for it fails."""
    assert check in failed(method)
