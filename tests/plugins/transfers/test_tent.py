"""Test-time entropy minimisation: what moves, which way, and the statistics at the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve
from torch import nn

from learnforge import StageError, Task
from learnforge.spec import copy_weights
from learnforge_kit.training.evaluation import predict


def entropy_of(network: nn.Module, task: Task) -> float:
    logs = predict(network, task.train, task.info).log_softmax(1)
    return float(-(logs.exp() * logs).sum(1).mean())


def test_entropy_falls_and_only_normalisation_moves(
    make: Any, net: Any, task: Task, make_context: Any
) -> None:
    """Scales and shifts move until predictions are surer; convolutions and head stay bit for bit."""
    still, network = net(3), net(3)
    before = copy_weights(network)
    make("tent", epochs=0).fit(still, task, make_context(None))
    make("tent", epochs=5, batch_size=20, learning_rate=1e-2).fit(network, task, make_context(None))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {"body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"}
    assert changed == {"body.1.weight", "body.1.bias", *statistics}
    assert entropy_of(network, task) < entropy_of(still, task) - 0.01


def test_a_step_by_hand(make: Any, net: Any, task: Task, make_context: Any) -> None:
    """Adam's first step has the size of the learning rate, against the gradient of the mean entropy."""
    network, copy = net(3), net(3)
    few = evolve(task, train=task.train.select(torch.arange(20)))
    make("tent", batch_size=20, learning_rate=1e-3).fit(network, few, make_context(None))
    copy.eval().body[1].train()
    images = few.train.images  # type: ignore[attr-defined]
    shown = (images / 255 - torch.tensor(task.info.mean)) / torch.tensor(task.info.std)
    logs = copy(shown).log_softmax(1)
    (-(logs.exp() * logs).sum(1).mean()).backward()
    moved = network.body[1].weight - copy.body[1].weight
    assert copy.body[1].weight.grad is not None
    torch.testing.assert_close(moved, -1e-3 * copy.body[1].weight.grad.sign(), rtol=1e-3, atol=1e-6)


def test_what_cannot_be_adapted_is_refused(make: Any, net: Any, task: Task) -> None:
    """Other classes, and normalisation without weights."""
    other = evolve(task.info, classes=("a", "b"), origins=("a", "b"))
    with pytest.raises(StageError, match="it knows 2, the task has 3"):
        make("tent").prepare(net(2), other, task.info)
    with pytest.raises(StageError, match="BatchNorm2d must have batch normalisation with weights to adapt"):
        make("tent").prepare(nn.BatchNorm2d(1, affine=False), task.info, task.info)
