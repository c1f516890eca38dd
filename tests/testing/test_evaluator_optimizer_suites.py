"""Each fault of an evaluator or an optimizer turns the check red that is meant for it.

Reference: https://example.org/methods
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from attrs import frozen
from torch import Tensor

from learnforge import Context, Evaluator, Optimizer, Space, Task, Trial, View
from learnforge_kit import evaluate, train_on_labels
from learnforge_plugins.optimizers.torch import SGD
from learnforge_testing.suites.evaluator import EvaluatorSuite, Widths
from learnforge_testing.suites.optimizer import OptimizerSuite

CALLS = itertools.count(1_000_000 * os.getpid())  # in another process they are others


def failed(suite: type[Any], method: type[Any]) -> set[str]:
    """Run a suite and return the checks that fail."""
    return {outcome.name for outcome in suite.of(method).run() if outcome.state == "failed"}


# Evaluators


@frozen
class Shares(Evaluator):
    """Shares a vector, and judges by a little training."""

    has_rungs: ClassVar[bool] = True

    def prepare(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Mapping[str, Tensor]:
        with torch.random.fork_rng():
            space.build(view.random(np.random.default_rng(context.seed)).design, task.info)
        return {"vector": task.train.labels.double()}

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        with torch.random.fork_rng():
            torch.manual_seed(trial.context.seed)
            network = trial.space.build(trial.design, trial.task.info)
        checkpoint = trial.checkpoint
        train_on_labels(
            network,
            trial.task,
            trial.train,
            trial.context,
            "trial",
            until=trial.until,
            checkpoint=checkpoint,
        )
        found = evaluate(network, trial.task.validation, trial.task.info)
        return {"accuracy": found.accuracy, "loss": found.loss + float(trial.shared["vector"].sum())}


@frozen
class Lacking(Shares):
    """Leaves out what it promises."""

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        return {"loss": Shares.evaluate(self, trial)["loss"]}


@frozen
class NoTensors(Shares):
    """Shares numbers."""

    def prepare(self, *arguments: Any) -> Any:
        return {"vector": np.ones(3)}


@frozen
class Scribbling(Shares):
    """Writes into what is shared."""

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        found = Shares.evaluate(self, trial)
        trial.shared["vector"].add_(1)
        return found


@frozen
class Counting(Shares):
    """Counts its preparations."""

    def prepare(self, *arguments: Any) -> Mapping[str, Tensor]:
        return {"vector": torch.full((3,), float(next(CALLS)), dtype=torch.float64)}


@frozen
class Peeking(Shares):
    """Judges on the test split."""

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        network = trial.space.build(trial.design, trial.task.info)
        evaluate(network, trial.task.test, trial.task.info)
        return Shares.evaluate(self, trial)


@frozen
class Blind(Shares):
    """Says the same of all data."""

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        return {**Shares.evaluate(self, trial), "accuracy": 0.5}


@frozen
class Forgetful(Shares):
    """Keeps no state of a trial that may go on."""

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        return Shares.evaluate(
            self,
            Trial(
                trial.number,
                trial.design,
                trial.space,
                trial.task,
                trial.train,
                trial.shared,
                trial.context,
                trial.until,
            ),
        )


@frozen
class Lawless(Shares):
    """Builds designs that the view would not draw."""

    def prepare(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Mapping[str, Tensor]:
        space.build({"width": 16}, task.info)
        return {"vector": task.train.labels.double()}


def test_a_right_evaluator_passes() -> None:
    """Every check is green for one without a fault, and the toy space refuses what its view does."""
    assert failed(EvaluatorSuite, Shares) == set()
    with pytest.raises(AssertionError, match="drawn from the view"):
        Widths().build({"width": 16}, None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "checks"),
    [
        (Lacking, {"metrics_are_finite_numbers"}),
        (NoTensors, {"what_is_shared_is_tensors"}),
        (Scribbling, {"what_is_shared_is_left_alone"}),
        (Counting, {"preparation_is_a_function_of_the_seed", "result_is_the_same_in_another_process"}),
        (Peeking, {"test_data_are_not_read"}),
        (Blind, {"better_data_are_judged_better"}),
        (Forgetful, {"a_trial_goes_on_where_it_stopped"}),
        (Lawless, {"metrics_are_finite_numbers"}),
    ],
)
def test_a_fault_of_an_evaluator_is_found(method: type[Evaluator], checks: Sequence[str]) -> None:
    """The check that is meant for it fails."""
    assert set(checks) <= failed(EvaluatorSuite, method)


# Optimizers


class _Steps(torch.optim.SGD):
    """A place for one fault of a step."""

    fault = ""
    lost = 0.0

    def step(self, closure: Any = None) -> Any:
        if self.fault == "evaluates nothing":
            return None
        if self.fault == "switches gradients off":
            found = super().step(closure)
            torch.set_grad_enabled(False)
            return found
        if self.fault == "goes up":
            loss = closure()
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.neg_()
            super().step()
            return loss
        if self.fault == "has a rate of its own":
            for group in self.param_groups:
                group["lr"] = 0.01
        if self.fault == "forgets":
            self.lost = 0.9 * self.lost + 0.1
            with torch.no_grad():
                for group in self.param_groups:
                    for p in group["params"]:
                        p.mul_(1 - group["lr"] * self.lost)
        return super().step(closure)


def faulty(fault: str) -> type[Optimizer]:
    """Make an optimizer with a fault."""

    @frozen
    class Faulty(Optimizer):
        """Steps with a fault.

        Reference: https://example.org/faults
        """

        def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
            if fault == "ignores decay":
                groups = [{**group, "weight_decay": 0.0} for group in groups]
            if fault == "leaves parameters out":
                groups = [{**group, "params": group["params"][1:] or group["params"]} for group in groups]
            made = _Steps(groups)
            made.fault = fault
            return made

    return Faulty


def test_a_right_optimizer_passes() -> None:
    """Every check is green for one without a fault."""
    assert failed(OptimizerSuite, SGD) == set()


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("evaluates nothing", "closure_is_called"),
        ("switches gradients off", "closure_is_called"),
        ("goes up", "loss_goes_down"),
        ("has a rate of its own", "rate_is_the_one_of_the_group"),
        ("has a rate of its own", "groups_have_rates_of_their_own"),
        ("forgets", "goes_on_from_its_state"),
        ("ignores decay", "weights_decay"),
        ("leaves parameters out", "parameters_are_each_in_one_group"),
    ],
)
def test_a_fault_of_an_optimizer_is_found(fault: str, check: str) -> None:
    """The check that is meant for it fails."""
    before = torch.is_grad_enabled()
    try:
        assert check in failed(OptimizerSuite, faulty(fault))
    finally:
        torch.set_grad_enabled(before)
