"""Adaptive batch normalisation: statistics of the new task, and nothing else changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve

from learnforge import StageError, Task
from learnforge.spec import copy_weights
from learnforge_kit.data.normaliser import Normaliser


def test_statistics_are_those_of_the_new_task(make: Any, net: Any, task: Task, make_context: Any) -> None:
    """In one batch the mean and variance of what goes into the layer are met; all else stays."""
    network = net(3)
    before = copy_weights(network)
    fitted = make("adabn").fit(network, task, make_context(None))
    assert fitted is network
    images = Normaliser(task.info, torch.device("cpu"))(task.train.images)  # type: ignore[attr-defined]
    inside = network.body[0](images)
    torch.testing.assert_close(network.body[1].running_mean, inside.mean((0, 2, 3)))
    torch.testing.assert_close(network.body[1].running_var, inside.var((0, 2, 3)))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"}
    assert network.body[1].momentum == 0.1
    assert not network.body[1].training


def test_batches_are_averaged(make: Any, net: Any, task: Task, make_context: Any) -> None:
    """Several batches give the mean of their means; a last batch of one image is passed over."""
    network = net(3)
    few = evolve(task, train=task.train.select(torch.arange(41)))
    make("adabn", batch_size=20).fit(network, few, make_context(None))
    assert int(network.body[1].num_batches_tracked) == 2


def test_other_classes_and_networks_without_statistics_are_refused(make: Any, net: Any, task: Task) -> None:
    """It keeps the head, so the classes must be the same; and there must be something to adapt."""
    other = evolve(task.info, classes=("a", "b"), origins=("a", "b"))
    with pytest.raises(StageError, match="it knows 2, the task has 3"):
        make("adabn").prepare(net(2), other, task.info)
    with pytest.raises(StageError, match="Linear must have batch normalisation to adapt, it has none"):
        make("adabn").prepare(torch.nn.Linear(2, 3), task.info, task.info)
