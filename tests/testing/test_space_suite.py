"""Each fault of a space turns the check red that is meant for it, and no other.

Reference: https://example.org/chains
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import frozen
from tests.testing.breadth import BREADTHS, failed_checks
from torch import Tensor, nn

from learnforge import Pick, Space, TaskInfo
from learnforge.randomness import seeded
from learnforge_testing.suites.space import SpaceSuite

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@frozen
class Chains(Space):
    """Two linear layers with something between them."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return {
            "width": pick.integer("width", 4, 8),
            "activation": pick.choice("activation", ("relu", "tanh")),
        }

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task)


def _chain(design: dict[str, Any], task: TaskInfo, outputs: int = 0, *further: nn.Module) -> nn.Sequential:
    width, pixels = design["width"], math.prod(task.input_shape)
    between = ACTIVATIONS[design["activation"]]()
    head = nn.Linear(width, outputs or task.outputs)
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), *further, between, head)


@frozen
class Logarithmic(Chains):
    """Has ranges of all sorts, steps and logarithms, and choices that depend on others."""

    def design(self, pick: Pick) -> dict[str, Any]:
        design: dict[str, Any] = {
            "width": pick.integer("width", 4, 32, log=True) * pick.integer("factor", 1, 5, step=2),
            "activation": pick.choice("activation", ("relu", "tanh", None)) or "relu",
        }
        if design["width"] > 8:
            design["dropout"] = round(pick.number("dropout", 0.01, 0.5, log=True), 3)
        return design

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task, 0, nn.Dropout(design.get("dropout", 0.0)))


@frozen
class Insistent(Chains):
    """Asks for a choice again."""

    def design(self, pick: Pick) -> dict[str, Any]:
        pick.integer("width", 4, 8)
        return super().design(pick)


@frozen
class Repeated(Chains):
    """Offers a value twice."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return {
            "width": pick.integer("width", 4, 8),
            "activation": pick.choice("activation", ("relu", "relu", "tanh")),
        }


@frozen
class Nested(Chains):
    """Offers a value that no study can store."""

    def design(self, pick: Pick) -> dict[str, Any]:
        width: Any = pick.choice("width", ((4, 4), (8, 8)))  # type: ignore[arg-type]
        return {"width": sum(width), "activation": "relu"}


@frozen
class Shifting(Chains):
    """Offers other activations where the width is large."""

    def design(self, pick: Pick) -> dict[str, Any]:
        width = pick.integer("width", 4, 8)
        values = ("relu", "tanh") if width < 6 else ("tanh", "relu")
        return {"width": width, "activation": pick.choice("activation", values)}


@frozen
class Single(Chains):
    """Has one network."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return {"width": pick.integer("width", 4, 4), "activation": "relu"}


@frozen
class Peeking(Chains):
    """Notes in a design whether it was made from given choices."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return super().design(pick) | {"is_given": bool(getattr(pick, "_given", {}))}


@frozen
class Numbered(Chains):
    """Numbers the layers of a design, which JSON turns into text."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return {"layers": {0: super().design(pick)}}

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design["layers"][0], task)


@frozen
class Infinite(Chains):
    """Puts a number into a design that JSON does not know."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return super().design(pick) | {"limit": math.inf}


@frozen
class Untidy(Chains):
    """Keeps a choice in the design that the network does not show."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return super().design(pick) | {"kernel": pick.choice("kernel", (3, 5))}


@frozen
class Drawn(Chains):
    """Draws the width of the network where it is built."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain({**design, "width": design["width"] + torch.initial_seed() % 2}, task)


@frozen
class Consuming(Chains):
    """Takes the design apart while it builds."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        whole = dict(design)
        design.pop("activation")
        return _chain(whole, task)


@frozen
class Endless(Chains):
    """Cannot build its widest network."""

    def design(self, pick: Pick) -> dict[str, Any]:
        return {"width": pick.integer("width", 4, 400), "activation": "relu"}

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task) if design["width"] < 400 else _chain({}, task)


@frozen
class Few(Chains):
    """Knows eight classes at most."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task, min(8, task.outputs))


@frozen
class Square(Chains):
    """Takes images for squares."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        channels, height, _ = task.input_shape
        between = ACTIVATIONS[design["activation"]]()
        layers = nn.Linear(channels * height * height, design["width"]), between
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(design["width"], task.outputs))


@frozen
class Idle(Chains):
    """Has a layer that it does not use."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        network = _chain(design, task)
        network[0].register_parameter("scale", nn.Parameter(torch.ones(1)))
        return network


@frozen
class Exploding(Chains):
    """Gives the root of zero a gradient."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task, 0, _Root())


class _Root(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features + (features * 0).abs().sqrt()


@frozen
class Restless(Chains):
    """Drops features in eval mode too."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task, 0, _Dropping())


class _Dropping(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return F.dropout(features, 0.5)


@frozen
class Centred(Chains):
    """Takes the mean of the batch off the features."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task, 0, _Centring())


class _Centring(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features - features.mean(0)


@frozen
class Counting(Chains):
    """Counts its calls, in eval mode too."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task, 0, _Counter())


class _Counter(nn.Module):
    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        self.calls += 1
        return features


@frozen
class Looking(Chains):
    """Does something else where the features say so."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        return _chain(design, task, 0, _Looking())


class _Looking(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return features if bool(features.isfinite().all()) else features * 0


@frozen
class Fixed(Chains):
    """Draws its weights from a seed of its own."""

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        with seeded(3):
            return _chain(design, task)


FAULTS: list[tuple[type[Space], list[str]]] = [
    (Chains, []),
    (Logarithmic, []),
    (Insistent, ["choices_can_be_made"]),
    (Repeated, ["choices_can_be_made"]),
    (Shifting, ["choices_keep_their_values"]),
    (Single, ["there_is_more_than_one_design"]),
    (Peeking, ["own_choices_give_the_design_again"]),
    (Numbered, ["design_is_plain_data"]),
    (Infinite, ["design_is_plain_data"]),
    (Untidy, ["equal_networks_have_equal_designs"]),
    (Drawn, ["design_alone_decides_the_structure"]),
    (Consuming, ["building_leaves_the_design_alone"]),
    (Endless, ["ends_of_ranges_can_be_built"]),
    (Few, ["networks_give_a_score_for_each_class"]),
    (Square, ["networks_give_a_score_for_each_class"]),
    (Idle, ["networks_train_a_step"]),
    (Exploding, ["networks_train_a_step"]),
    (Restless, ["networks_score_images_one_by_one"]),
    (Centred, ["networks_score_images_one_by_one"]),
    (Counting, ["networks_score_images_one_by_one"]),
    (Looking, ["cost_is_known_before_building"]),
    (Fixed, ["weights_are_drawn_from_torchs_generator"]),
]


@BREADTHS
@pytest.mark.parametrize(("method", "broken"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_broken_methods_fail_the_check_meant_for_them(
    method: type[Space], broken: list[str], breadth: str
) -> None:
    """Each fault shows in its check and in no other."""
    assert list(failed_checks(SpaceSuite.of(method), broken, breadth)) == broken


def test_every_check_of_the_kind_has_a_fault() -> None:
    """No check of spaces is left that nothing has turned red."""
    own = {name.removeprefix("test_") for name in vars(SpaceSuite) if name.startswith("test_")}
    assert own == {name for _, names in FAULTS for name in names}


@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (Insistent, "choices_can_be_made", "width: must be asked for once in a design"),
        (Repeated, "choices_can_be_made", r"activation: values must differ, got \['relu', 'relu', 'tanh'\]"),
        (
            Nested,
            "choices_can_be_made",
            r"width: values must be numbers, text, .* got \[\(4, 4\), \(8, 8\)\]",
        ),
        (Shifting, "choices_keep_their_values", "activation must offer the same in every design"),
        (Untidy, "equal_networks_have_equal_designs", r"one network has the designs .*'kernel': 3"),
        (Numbered, "design_is_plain_data", "after a trip through JSON, got KeyError: 0"),
        (Few, "networks_give_a_score", r"11 outputs: scores must be \[2, 11\], got \[2, 8\]"),
        (Idle, "networks_train_a_step", r"every parameter must get a gradient, not so 0\.scale"),
        (Looking, "cost_is_known_before_building", "under `torch.device"),
    ],
)
def test_messages_say_what_came(method: type[Space], check: str, words: str) -> None:
    """A failure names choices, designs and shapes."""
    full = next(name for name in SpaceSuite.names() if name.startswith(check))
    with pytest.raises(AssertionError, match=words):
        getattr(SpaceSuite.of(method)(), f"test_{full}")()


@frozen
class Wide(Chains):
    """Needs images of 16 pixels, and says so."""

    smallest_image = 16

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        if min(task.input_shape[1:]) < 16:
            raise ValueError("too small")
        return _chain(design, task)


def test_images_are_as_large_as_the_space_wants_them() -> None:
    """No image is smaller than `smallest_image`, and one has just that size."""
    assert SpaceSuite.of(Wide)().shapes() == ((1, 16, 16), (3, 16, 32), (3, 32, 32))
    assert not [o for o in SpaceSuite.of(Wide).run() if o.state == "failed"]
