"""Judging after a short training: networks that name one class, and statistics that lag."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from learnforge import Task
from learnforge_kit import Train, evaluate
from learnforge_kit.training.settling import evaluate_trained
from learnforge_testing.watch import train_alone


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """A network with batch normalisation that has learnt its task."""
    from learnforge_testing.toys import make_task

    torch.manual_seed(0)
    layers = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
    return train_alone(nn.Sequential(*layers), make_task(), Train(epochs=10))


def lagging(network: nn.Module) -> nn.Module:
    """Return it with the statistics of a network that has hardly been trained."""
    network = copy.deepcopy(network)
    norm = network.get_submodule("1")
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    norm.running_mean.fill_(-50.0)
    return network


def test_statistics_that_lag_are_measured_anew(network: nn.Module, task: Task) -> None:
    """It names one class for every image, and tells training batches apart: the statistics are to blame."""
    bad = lagging(network)
    before = evaluate(bad, task.validation, task.info)
    assert before.only is not None
    after = evaluate_trained(bad, task, batch_size=16)
    assert after.only is None
    assert after.accuracy > 0.9 > before.accuracy
    assert after == evaluate(bad, task.validation, task.info)
    assert not bad.training


def test_a_network_that_learnt_nothing_stays_as_it_is(network: nn.Module, task: Task) -> None:
    """Where training batches are not told apart either, nothing is changed, and it is said."""
    bad = lagging(network)
    head = bad.get_submodule("4")
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight)
    weights = copy.deepcopy(bad.state_dict())
    scores = evaluate_trained(bad, task, batch_size=16)
    assert scores.only == int(head.bias.argmax())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in bad.state_dict().items())


def test_a_network_that_tells_classes_apart_is_left_alone(network: nn.Module, task: Task) -> None:
    """Its statistics stay those of its training, bit for bit, and no random number is drawn."""
    own = copy.deepcopy(network)
    state = torch.get_rng_state()
    assert evaluate_trained(own, task, batch_size=16) == evaluate(network, task.validation, task.info)
    assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in own.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
