"""Optimizers of a training: their groups, what they may evaluate, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve, frozen
from torch import nn

from learnforge import Batch, Context, Optimizer, StageError, Task
from learnforge import context as context_module
from learnforge_kit import Train, Trainee, find_normalisations, fit, take_step
from learnforge_kit.training.optimization import make_optimizer
from learnforge_plugins.optimizers.torch import LBFGS, SGD
from tests.kit.test_training import CutError, assert_equal_state, small_network, train_on

MakeContext = Callable[..., Context]


def test_biases_and_normalisation_are_not_decayed() -> None:
    """Only parameters of two or more axes are decayed; every parameter is in one group, at its scale."""
    network = small_network()
    groups = [
        {"params": list(network[0].parameters()), "scale": 0.1},
        {"params": list(network[1:].parameters())},
    ]
    settings = Train(learning_rate=1.0, weight_decay=0.3)
    optimizer = make_optimizer(groups, settings)
    found = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    expected = {
        "0.weight": (0.1, 0.3),
        "0.bias": (0.1, 0.0),
        "1.weight": (1.0, 0.0),
        "1.bias": (1.0, 0.0),
        "5.weight": (1.0, 0.3),
        "5.bias": (1.0, 0.0),
    }
    assert {name: found[id(p)] for name, p in network.named_parameters()} == expected
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_frozen_parameters_are_given_to_no_optimizer() -> None:
    """What needs no gradient is in no group, so weight decay cannot move it."""
    network = small_network()
    network[0].requires_grad_(False)
    optimizer = make_optimizer([{"params": list(network.parameters())}], Train())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert not held & {id(p) for p in network[0].parameters()}


def test_sgd_bears_gradients_that_come_late() -> None:
    """A parameter that no loss depends on at first begins later, as in torch's plain step."""
    ends = []
    for plain in (False, True):
        first, second = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
        groups = [{"params": [first, second], "lr": 0.1, "weight_decay": 0.1}]
        optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True) if plain else SGD().make(groups)
        for late in (False, False, True, True):
            optimizer.zero_grad()
            (first.square().sum() + (second.square().sum() if late else 0.0)).backward()
            optimizer.step()
        ends.append([first.detach(), second.detach()])
    torch.testing.assert_close(ends[0], ends[1])


class Twice(torch.optim.SGD):
    """Evaluates each batch twice, far from the weights the second time, and steps by that gradient."""

    def step(self, closure: Any = None) -> Any:
        first = closure()
        kept = [p.detach().clone() for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for group in self.param_groups:
                for p in group["params"]:
                    p.add_(p.grad, alpha=0.5)
        closure()
        with torch.no_grad():
            for p, value in zip((p for g in self.param_groups for p in g["params"]), kept, strict=True):
                p.copy_(value)
        super().step()
        return first


@frozen
class TwoEvaluations(Optimizer):
    """Makes an optimizer that needs the closure."""

    momentum: float = 0.0

    def make(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return Twice(groups, momentum=self.momentum)


def test_running_statistics_follow_the_first_evaluation_alone(task: Task, make_context: MakeContext) -> None:
    """After one step they are those of a plain optimizer, whatever a second evaluation saw."""
    settings = Train(epochs=1, batch_size=60, learning_rate=0.1)
    found = []
    for optimizer in (SGD(momentum=0.0), TwoEvaluations()):
        network = small_network()
        train_on(network, task, evolve(settings, optimizer=optimizer), make_context(None))
        (layer,) = find_normalisations(network)
        assert layer.track_running_stats
        found.append((layer.running_mean, layer.running_var, int(layer.num_batches_tracked or 0)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2] == 1


def test_a_second_evaluation_is_of_the_same_batch(task: Task, make_context: MakeContext) -> None:
    """The reported loss is that of the first evaluation; the step goes by the last gradient."""
    settings = Train(epochs=1, batch_size=60, learning_rate=0.1, weight_decay=0.0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    images = task.train.images.float().sub(_mean(task)).div(_std(task))  # type: ignore[attr-defined]

    def gradients(at: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        leaves = {name: t.clone().requires_grad_() for name, t in at.items()}
        loss = nn.functional.cross_entropy(
            torch.func.functional_call(network, leaves, images), task.train.labels
        )
        return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))

    loss, first = gradients(before)
    _, second = gradients({name: t + 0.5 * first[name] for name, t in before.items()})
    chosen = evolve(settings, optimizer=TwoEvaluations())
    (entry,) = train_on(network, task, chosen, make_context(None))
    assert entry["loss"] == pytest.approx(float(loss), rel=1e-5)
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * second[name], rtol=1e-4, atol=1e-6)


def _mean(task: Task) -> torch.Tensor:
    return 255 * torch.tensor(task.info.mean).view(-1, 1, 1)


def _std(task: Task) -> torch.Tensor:
    return 255 * torch.tensor(task.info.std).view(-1, 1, 1)


def test_a_second_evaluation_draws_and_leaves_nothing(task: Task, make_context: MakeContext) -> None:
    """It drops out the same units as the first, and buffers and counts know of one evaluation alone."""
    network, extra = small_network(dropout=0.5), nn.BatchNorm1d(3)
    counts, seen = {"steps": 0}, []

    def loss(batch: Batch) -> torch.Tensor:
        counts["steps"] += 1
        seen.append((counts["steps"], torch.rand(()).item()))
        return nn.functional.cross_entropy(extra(network(batch.images)), batch.labels)

    settings = Train(epochs=1, batch_size=20, learning_rate=0.1, optimizer=TwoEvaluations())
    trainee = Trainee(network, loss, extra=extra, counts=counts)
    fit(trainee, task.train, task.info, settings, make_context(None), "a")
    assert seen[::2] == seen[1::2]
    assert [step for step, _ in seen[::2]] == [1, 2, 3]
    assert counts == {"steps": 3}
    assert int(extra.num_batches_tracked or 0) == 3


@pytest.mark.parametrize("optimizer", [TwoEvaluations(momentum=0.9), LBFGS(iterations=3, history=2)])
def test_resume_is_bit_exact(
    optimizer: Optimizer,
    task: Task,
    make_context: MakeContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What evaluates several times goes on from a checkpoint as if it had not been cut off."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    settings = Train(epochs=3, batch_size=20, optimizer=optimizer, learning_rate=0.1, weight_decay=0.0)

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["epoch"] == 3:
            raise CutError

    whole = small_network(dropout=0.3)
    expected = train_on(whole, task, settings, make_context(None))
    with pytest.raises(CutError):
        train_on(small_network(dropout=0.3), task, settings, make_context(tmp_path, emit=stop))
    again = small_network(seed=9, dropout=0.3)
    assert train_on(again, task, settings, make_context(tmp_path)) == expected
    assert_equal_state(again, whole)


@frozen
class Odd(Optimizer):
    """Makes whatever it is told to."""

    what: Any

    def make(self, groups: list[dict[str, Any]]) -> Any:
        return self.what(groups)


class Lazy(torch.optim.SGD):
    """Never evaluates."""

    def step(self, closure: Any = None) -> None:
        return


def test_what_is_no_optimizer_is_refused() -> None:
    """The words name the class, and what it made or would not train."""
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))]}]
    with pytest.raises(StageError, match=r"Odd\.make must return a torch optimizer, it returned 3"):
        make_optimizer(groups, Train(optimizer=Odd(lambda groups: 3)))
    with pytest.raises(ValueError, match="LBFGS cannot train networks so: it knows no weight decay; set `w"):
        Train(optimizer=LBFGS())  # so that `check` says it
    scaled = [*groups, {"params": [nn.Parameter(torch.zeros(2, 2))], "scale": 0.5}]
    with pytest.raises(StageError, match="all parameters at one learning rate, they have"):
        make_optimizer(scaled, Train(optimizer=LBFGS(), weight_decay=0.0))
    with pytest.raises(TypeError, match=r"must be an optimizer, such as `load_method.*, got 'sgd'"):
        Train(optimizer="sgd")  # type: ignore[arg-type]


def test_a_step_without_an_evaluation_is_refused() -> None:
    """An optimizer that leaves its closure alone has trained nothing."""
    lazy = Lazy([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(StageError, match=r"Lazy\.step must call the closure"):
        take_step(lazy, lambda is_first: torch.zeros(()))
