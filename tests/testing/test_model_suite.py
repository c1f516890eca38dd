"""Each fault of a model turns the check red that is meant for it, and no other.

Reference: https://example.org/dense
"""

from __future__ import annotations

import contextlib
import math
import socket
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import ge
from tests.testing.breadth import BREADTHS, failed_checks
from torch import Tensor, nn

from learnforge import Model, TaskInfo
from learnforge.randomness import seeded
from learnforge_testing.suites.model import ModelSuite


@frozen
class Dense(Model):
    """Two linear layers."""

    def build(self, task: TaskInfo) -> nn.Module:
        return _dense(task)


def _dense(task: TaskInfo, width: int = 6, outputs: int = 0, *further: nn.Module) -> nn.Sequential:
    first = nn.Linear(math.prod(task.input_shape), width)
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), *further, nn.Linear(width, outputs or task.outputs))


@frozen
class Pretrained(Dense):
    """Names weights that are nowhere.

    Args:
        width: Features between the layers, from 1.
        weights: Name of the weights, or none.
        is_pretrained: Whether to look for the best ones.
    """

    width: int = field(default=6, validator=ge(1))
    weights: str | None = "best"
    is_pretrained: bool = True

    def without_pretrained(self) -> Model:
        return evolve(self, weights=None, is_pretrained=False)

    def require(self) -> None:
        if self.weights or self.is_pretrained:
            socket.create_connection(("weights.example.org", 443))

    def build(self, task: TaskInfo) -> nn.Module:
        self.require()
        return _dense(task, self.width)


@frozen
class Few(Dense):
    """Knows eight classes at most."""

    def build(self, task: TaskInfo) -> nn.Module:
        return _dense(task, 6, min(8, task.outputs))


@frozen
class Idle(Dense):
    """Has a layer that it does not use."""

    def build(self, task: TaskInfo) -> nn.Module:
        network = _dense(task)
        network[0].register_parameter("scale", nn.Parameter(torch.ones(1)))
        return network


@frozen
class Frozen(Dense):
    """Has nothing to train."""

    def build(self, task: TaskInfo) -> nn.Module:
        return _dense(task).requires_grad_(False)


@frozen
class Twofold(Dense):
    """Gives scores of an auxiliary head beside its own in training."""

    def build(self, task: TaskInfo) -> nn.Module:
        return nn.Sequential(_dense(task), _Twice())


class _Twice(nn.Module):
    def forward(self, scores: Tensor) -> Any:
        return (scores, scores) if self.training else scores


@frozen
class Restless(Dense):
    """Drops features in eval mode too."""

    def build(self, task: TaskInfo) -> nn.Module:
        return _dense(task, 6, 0, _Dropping())


class _Dropping(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return F.dropout(features, 0.5)


@frozen
class Looking(Dense):
    """Does something else where the features say so."""

    def build(self, task: TaskInfo) -> nn.Module:
        return _dense(task, 6, 0, _Looking())


class _Looking(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features if bool(features.isfinite().all()) else features * 0


@frozen
class Fixed(Dense):
    """Draws its weights from a seed of its own."""

    def build(self, task: TaskInfo) -> nn.Module:
        with seeded(3):
            return _dense(task)


@frozen
class Headless(Dense):
    """Multiplies with a matrix that is no layer."""

    def build(self, task: TaskInfo) -> nn.Module:
        return nn.Sequential(nn.Flatten(), _Matrix(math.prod(task.input_shape), task.outputs))


class _Matrix(nn.Module):
    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(inside, outside) / inside)

    def forward(self, features: Tensor) -> Tensor:
        return features @ self.matrix


@frozen
class Scaled(Dense):
    """Multiplies the scores with a number for each class, after the head."""

    def build(self, task: TaskInfo) -> nn.Module:
        return nn.Sequential(_dense(task), _Scale(task.outputs))


class _Scale(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(outputs))

    def forward(self, scores: Tensor) -> Tensor:
        return scores * self.scale


@frozen
class Hiding(Dense):
    """Keeps a random shift where no state dict finds it."""

    def build(self, task: TaskInfo) -> nn.Module:
        return _dense(task, 6, 0, _Shift(6))


class _Shift(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.shift = torch.rand(width)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.shift


@frozen
class Drawn(Dense):
    """Draws its width where it is built."""

    def build(self, task: TaskInfo) -> nn.Module:
        return _dense(task, 6 + torch.initial_seed() % 2)


@frozen
class Forgetful(Pretrained):
    """Forgets its width with its weights.

    Args:
        width: Features between the layers, from 1.
        weights: Name of the weights, or none.
        is_pretrained: Whether to look for the best ones.
    """

    def without_pretrained(self) -> Model:
        return type(self)(weights=None, is_pretrained=False)


@frozen
class Other(Dense):
    """Is another model without weights."""

    def without_pretrained(self) -> Model:
        return Dense()


@frozen
class Flipping(Pretrained):
    """Turns its weights on again when they are off.

    Args:
        width: Features between the layers, from 1.
        weights: Name of the weights, or none.
        is_pretrained: Whether to look for the best ones.
    """

    def without_pretrained(self) -> Model:
        return evolve(self, weights=None if self.weights else "best", is_pretrained=False)

    def require(self) -> None:
        return


@frozen
class Asking(Dense):
    """Looks whether there is a newer version of it, and goes on where it cannot tell."""

    def build(self, task: TaskInfo) -> nn.Module:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 1), 0.1).close()
        return _dense(task)


@frozen
class Insisting(Dense):
    """Must find a server to be ready."""

    def require(self) -> None:
        socket.create_connection(("127.0.0.1", 1), 0.1).close()


FAULTS: list[tuple[type[Model], list[str]]] = [
    (Dense, []),
    (Pretrained, []),
    (Few, ["network_gives_a_score_for_each_class"]),
    (Idle, ["network_trains_a_step"]),
    (Frozen, ["network_trains_a_step"]),
    (Twofold, ["network_trains_a_step"]),
    (Restless, ["network_scores_images_one_by_one"]),
    (Looking, ["cost_is_known_before_building"]),
    (Fixed, ["weights_are_drawn_from_torchs_generator"]),
    (Headless, ["head_can_be_replaced"]),
    (Scaled, ["head_can_be_replaced"]),
    (Hiding, ["weights_are_all_in_the_state_dict"]),
    (Drawn, ["weights_are_all_in_the_state_dict"]),
    (Forgetful, ["other_options_stay_without_pretrained_weights"]),
    (Other, ["other_options_stay_without_pretrained_weights"]),
    (Flipping, ["other_options_stay_without_pretrained_weights"]),
    (Asking, ["building_without_pretrained_weights_is_offline"]),
    (Insisting, ["building_without_pretrained_weights_is_offline"]),
]


@BREADTHS
@pytest.mark.parametrize(("method", "broken"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_broken_methods_fail_the_check_meant_for_them(
    method: type[Model], broken: list[str], breadth: str
) -> None:
    """Each fault shows in its check and in no other."""
    assert list(failed_checks(ModelSuite.of(method), broken, breadth)) == broken


def test_every_check_of_the_kind_has_a_fault() -> None:
    """No check of models is left that nothing has turned red."""
    own = {name.removeprefix("test_") for name in vars(ModelSuite) if name.startswith("test_")}
    assert own == {name for _, names in FAULTS for name in names}


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (Few, "network_gives_a_score_for_each_class", r"11 outputs: scores must be \[2, 11\], got \[2, 8\]"),
        (Frozen, "network_trains_a_step", r"Frozen, images \[1, 8, 8\]: some parameter must ask"),
        (
            Restless,
            "network_scores_images_one_by_one",
            "Restless: scores in eval mode must be the same again",
        ),
        (Headless, "head_can_be_replaced", "must give the scores, and be replaceable: the head of Seq"),
        (Scaled, "head_can_be_replaced", "does not work with a head of 5 outputs at .*RuntimeError"),
        (
            Hiding,
            "weights_are_all_in_the_state_dict",
            "all that a network computes with must be in its state",
        ),
        (
            Drawn,
            "weights_are_all_in_the_state_dict",
            "must fit a network of another seed: .* the network wants",
        ),
        (
            Forgetful,
            "other_options_stay_without_pretrained_weights",
            "must keep width = 7 or turn it off, got 6",
        ),
        (Asking, "building_without_pretrained_weights_is_offline", r"asked for \[\('127\.0\.0\.1', 1\)\]"),
    ],
)
def test_messages_say_what_came(method: type[Model], check: str, words: str) -> None:
    """A failure names layers, shapes and options."""
    with pytest.raises(AssertionError, match=words):
        getattr(ModelSuite.of(method)(), f"test_{check}")()


def test_network_is_there_again_after_the_check() -> None:
    """Connections that are refused for a check are made again after it, whether it fails or not."""
    before: Any = socket.create_connection, socket.getaddrinfo
    for method in (Dense, Asking):
        list(ModelSuite.of(method).run())
    assert before == (socket.create_connection, socket.getaddrinfo)
