"""The suite of spaces: good ones pass, one that breaks a duty fails the check that is meant for it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from attrs import frozen
from torch import nn

from learnforge import Pick, Plugins, Space, TaskInfo
from learnforge.testing import SpaceSuite


@frozen
class Plain(Space):
    """Chains of convolutions.

    Reference: https://arxiv.org/abs/1412.6806
    """

    def design(self, pick: Pick) -> dict[str, Any]:
        depth = pick.integer("depth", 1, 3)
        return {"layers": [pick.integer(f"width{i}", 4, 12, step=4) for i in range(depth)]}

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        layers: list[nn.Module] = []
        inside = task.input_shape[0]
        for width in design["layers"]:
            layers += [nn.Conv2d(inside, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            inside = width
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, task.outputs))


class Tuples(Plain):
    """Puts a tuple into a design, which JSON turns into a list."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return {"layers": tuple(super().design(pick)["layers"])}


class Single(Plain):
    """Has one design."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return {"layers": [4]}


COUNT = itertools.count()


class Counting(Plain):
    """Counts its designs, so that none is ever drawn twice."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return {**super().design(pick), "count": next(COUNT)}


class Idle(Plain):
    """Asks for eleven choices that change nothing."""

    def design(self, pick: Pick) -> dict[str, Any]:
        for i in range(11):
            pick.choice(f"idle{i}", (0, 1))
        return super().design(pick)


LAST: list[int] = []


class Forgetful(Plain):
    """Leaves a choice out of the design and builds by it."""

    def design(self, pick: Pick) -> dict[str, Any]:
        LAST[:] = [pick.choice("last", (4, 8))]
        return super().design(pick)

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return super().build({"layers": [*design["layers"], *LAST]}, task)


class TenClasses(Plain):
    """Builds for ten classes whatever the task."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        network = super().build(design, task)
        network[-1] = nn.Linear(network[-1].in_features, 10)  # type: ignore[index, operator, arg-type, union-attr]
        return network


class Spare(Plain):
    """Builds a layer that takes no part."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        network = super().build(design, task)
        network.spare = nn.Linear(1, 1)
        network.forward = lambda images: _run(network, images)  # type: ignore[method-assign]
        return network


def _run(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    for name, layer in network.named_children():
        images = images if name == "spare" else layer(images)
    return images


class Seeded(Plain):
    """Seeds its weights itself."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        torch.manual_seed(0)
        return super().build(design, task)


class Consuming(Plain):
    """Takes the layers out of the design while it builds them."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        network = super().build(design, task)
        design["layers"].append(4)
        return network


class Larger(Plain):
    """Builds a wider network than the one that is counted."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        is_counted = torch.empty(0).is_meta
        return super().build({"layers": [*design["layers"], 4 if is_counted else 8]}, task)


class OutOfRange(Plain):
    """Gives its picks a default that is not one of the choices."""

    def design(self, pick: Any) -> dict[str, Any]:
        found = super().design(pick)
        if hasattr(pick, "choices"):
            pick.choices["width0"] = 5
        return found


class Shifting(Plain):
    """Counts the choices that are made anew, so that its own choices lead elsewhere the second time."""

    def design(self, pick: Any) -> dict[str, Any]:
        return {**super().design(pick), "given": len(getattr(pick, "_given", ()))}


BROKEN = {
    Tuples: ["designs_are_plain_data"],
    Single: ["designs_differ", "every_choice_counts"],
    Counting: [
        "random_state_is_untouched", "a_draw_is_a_function_of_its_generator", "normal_form_is_idempotent",
    ],
    OutOfRange: ["choices_are_inside_their_ranges", "normal_form_is_idempotent"],
    Shifting: ["normal_form_is_idempotent"],
    Forgetful: ["equal_designs_build_equal_networks"],
    Idle: ["every_choice_counts"],
    TenClasses: ["networks_give_class_scores"],
    Spare: ["networks_train"],
    Seeded: ["weights_come_from_torch_generator"],
    Consuming: [
        "building_leaves_the_design_alone", "cost_matches_the_network", "weights_come_from_torch_generator",
    ],
    Larger: ["cost_matches_the_network"],
}  # fmt: skip


def failed(method: type[Space]) -> list[str]:
    made = method if method is Plain else frozen(method)
    found = [outcome.name for outcome in SpaceSuite.of(made).run() if outcome.state == "failed"]
    return [
        name for name in found if name != "docstring_cites_a_reference"
    ]  # the broken ones are of no paper


@pytest.mark.parametrize("method", BROKEN, ids=lambda method: method.__name__)
def test_a_broken_space_fails_its_check(method: type[Space]) -> None:
    """Each fault turns its check red; some cannot but show in a second one, which is named beside it."""
    assert set(failed(method)) == set(BROKEN[method])


def test_every_check_can_fail() -> None:
    """No check of a space is without a space that breaks it."""
    own = {name.removeprefix("test_") for name in vars(SpaceSuite) if name.startswith("test_")}
    assert own <= {name for names in BROKEN.values() for name in names}


def test_good_spaces_pass() -> None:
    """A plain one, and learnforge's own with few and many choices."""
    assert failed(Plain) == []
    residual = Plugins().load("space", "residual")
    for options in ({}, {"stages": 1, "blocks": 1}):
        assert [o.name for o in SpaceSuite.of(residual, options).run() if o.state == "failed"] == []
