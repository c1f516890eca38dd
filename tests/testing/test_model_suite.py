"""The suite of models: good ones pass, one that breaks a duty fails the check that is meant for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import frozen
from torch import Tensor, nn

from learnforge import Model, TaskInfo
from learnforge.testing import ModelSuite


@frozen
class Small(Model):
    """A small network.

    Reference: https://arxiv.org/abs/1412.6806
    """

    def build(self, task: TaskInfo) -> nn.Module:
        body = [nn.Conv2d(task.input_shape[0], 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, task.outputs))


class Grey(Small):
    """Takes grey images only."""

    def build(self, task: TaskInfo) -> nn.Module:
        network: Any = super().build(task)
        if task.input_shape[0] == 3:
            return nn.Sequential(_Scores(10), network)
        return network  # type: ignore[no-any-return]


class _Scores(nn.Module):
    """Gives too few scores."""

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    def forward(self, images: Tensor) -> Tensor:
        return images[:-1] if len(images) == 3 else images


class Frozen(Small):
    """Has a layer that is never used."""

    def build(self, task: TaskInfo) -> nn.Module:
        network = super().build(task)
        network[0].register_parameter("spare", nn.Parameter(torch.zeros(1)))  # type: ignore[index, operator]
        return network


class Seeded(Small):
    """Seeds its weights itself."""

    def build(self, task: TaskInfo) -> nn.Module:
        torch.manual_seed(0)
        return super().build(task)


class Scaled(Small):
    """Keeps a random number that is in no state."""

    def build(self, task: TaskInfo) -> nn.Module:
        network = super().build(task)
        return nn.Sequential(_Scale(), *network)  # type: ignore[misc, arg-type]


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.rand(1, device="cpu").item() + 0.5

    def forward(self, images: Tensor) -> Tensor:
        return images * self.scale


class TwoHeads(Small):
    """Ends in a layer whose outputs are no classes."""

    def build(self, task: TaskInfo) -> nn.Module:
        network = super().build(task)
        return nn.Sequential(network[:-1], _Bilinear(8, task.outputs))  # type: ignore[index]


class _Bilinear(nn.Module):
    def __init__(self, inside: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inside, outputs))

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.weight


class Larger(Small):
    """Builds a wider network than the one that is counted."""

    def build(self, task: TaskInfo) -> nn.Module:
        network = super().build(task)
        if not torch.empty(0).is_meta:
            network.insert(1, nn.Conv2d(8, 8, 1))  # type: ignore[operator]
        return network


class Restless(Small):
    """Averages its batches in eval mode too."""

    def build(self, task: TaskInfo) -> nn.Module:
        network = super().build(task)
        network.insert(2, _Counter())  # type: ignore[operator]
        return network


class _Counter(nn.Module):
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        if not features.is_meta:
            self.seen += 1
        return features


BROKEN = {
    Grey: ["networks_give_class_scores"],
    Frozen: ["networks_train"],
    Seeded: ["weights_come_from_torch_generator"],
    Scaled: ["state_round_trip"],
    TwoHeads: ["head_can_be_replaced"],
    Larger: ["cost_matches_the_network"],
    Restless: ["eval_leaves_the_state_alone"],
}


def failed(method: type[Model]) -> list[str]:
    made = method if method is Small else frozen(method)
    found = [outcome.name for outcome in ModelSuite.of(made).run() if outcome.state == "failed"]
    return [
        name for name in found if name != "docstring_cites_a_reference"
    ]  # the broken ones are of no paper


@pytest.mark.parametrize("method", BROKEN, ids=lambda method: method.__name__)
def test_a_broken_model_fails_its_check(method: type[Model]) -> None:
    """Each fault turns its check red and no other."""
    assert failed(method) == BROKEN[method]


def test_every_check_can_fail() -> None:
    """No check of a model is without a model that breaks it."""
    own = {name.removeprefix("test_") for name in vars(ModelSuite) if name.startswith("test_")}
    assert own == {name for names in BROKEN.values() for name in names}


def test_a_good_model_passes() -> None:
    """A small network keeps all duties."""
    assert failed(Small) == []
