"""Reptile: Adam's steps by hand, the way that the outer step goes, and mini-batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.plugins.meta_learners.conftest import Slope, Squares, gradient_of, points

from learnforge import Engine, FastWeights, Labelled, Plugins, RecipeError
from learnforge.options.structure import build
from learnforge_kit.engines.loop import LoopEngine


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the method from options."""
    return lambda **options: build(plugins.load("meta-learner", "reptile"), options, "test")


def at(method: Any, w: float) -> dict[str, torch.Tensor]:
    """Parameters at w, with what the method carries at the start."""
    theta = {"w": torch.tensor(w, dtype=torch.float64)}
    return {**theta, **method.carried_state(theta)}


def test_second_moments_are_carried_on(make: Any, engine: Engine) -> None:
    """The second outer step begins with the mean over tasks of the first one's second moments, and counts on;
    so does adaptation.
    """
    rate, w = 0.01, 0.7
    support, query = points((2.0, 3.0), (1.0, -2.0)), points((1.5, -1.0), (0.5, 1.0))
    method = make(inner_rate=rate, inner_steps=1)
    carried = gradient_of(method, engine, w, support, query).carried
    slopes = [x * (x * w - y) for x, y in ((2.0, 3.0), (1.0, -2.0))]
    square = sum(0.001 * g**2 for g in slopes) / 2
    assert carried["adam_square:w"].item() == pytest.approx(square)
    assert carried["adam_steps"].item() == 1
    moves = [g / math.sqrt((0.999 * square + 0.001 * g**2) / (1 - 0.999**2)) for g in slopes]
    again = gradient_of(method, engine, w, support, query, carried)
    assert again.gradients["w"].item() == pytest.approx(rate * sum(moves) / 2)
    theta = {"w": torch.tensor(w, dtype=torch.float64), **carried}
    first = make(inner_rate=rate, adaptation_steps=1).adapt(engine, theta, support)[-1]
    assert first.of(1)["w"].item() == pytest.approx(w - rate * moves[1])


def test_gradient_worked_by_hand(make: Any, engine: Engine) -> None:
    """Adam's first step is `inner_rate` downhill; its second has g / sqrt(mean of squares), each step's share
    unbiased. The meta-gradient is the way back from where they lead.
    """
    (x, y), rate, w = (2.0, 3.0), 0.01, 0.7
    first = x * (x * w - y)
    middle = w - rate * math.copysign(1, first)
    second = x * (x * middle - y)
    mean = (0.999 * 0.001 * first**2 + 0.001 * second**2) / (1 - 0.999**2)
    end = middle - rate * second / math.sqrt(mean)
    one, two = (
        gradient_of(make(inner_rate=rate, inner_steps=k), engine, w, points((x, y)), points((1.5, -1.0)))
        for k in (1, 2)
    )
    assert one.gradients["w"].item() == pytest.approx(w - middle)
    assert two.gradients["w"].item() == pytest.approx(w - end)
    assert two.losses.tolist() == pytest.approx([0.5 * (1.5 * end + 1.0) ** 2])


def test_the_query_has_no_part_in_it(make: Any, engine: Engine) -> None:
    """Another query gives another loss and the same gradient."""
    one, other = (
        gradient_of(make(), engine, 0.7, points((2.0, 3.0)), points(query)) for query in [(1, 1), (5, -3)]
    )
    assert one.gradients["w"] == other.gradients["w"]
    assert one.losses != other.losses


def test_adaptation_has_steps_of_its_own(make: Any, engine: Engine) -> None:
    """Adaptation takes `adaptation_steps`, the same steps as meta-training on the same batches."""
    method = make(inner_steps=2, adaptation_steps=7)
    trajectory = method.adapt(engine, at(method, 0.7), points((2.0, 3.0)))
    assert len(trajectory) == 8
    found = gradient_of(make(inner_steps=2), engine, 0.7, points((2.0, 3.0)), points((1.0, 1.0)))
    assert trajectory[2].of(0)["w"].item() == pytest.approx(0.7 - found.gradients["w"].item())


class _Noting(LoopEngine):
    """Notes the images of every step."""

    def step(self, weights: FastWeights, support: Labelled, names: Any = None) -> Any:
        shown.append(support.images[0].flatten().tolist())
        return super().step(weights, support, names)


shown: list[list[float]] = []


def test_mini_batches_show_every_image_once_in_a_lap(make: Any) -> None:
    """Batches of 4 of 6 images: after three steps each was shown twice, and the laps differ in order."""
    shown.clear()
    images = torch.arange(6, dtype=torch.float64)[None, :, None]
    support = Labelled(images, torch.ones(1, 6, dtype=torch.float64))
    method = make(adaptation_steps=3, adaptation_batch_size=4)
    method.adapt(_Noting(Slope(), "support", Squares()), at(method, 0.0), support)
    assert [len(batch) for batch in shown] == [4, 4, 4]
    seen = [image for batch in shown for image in batch]
    assert sorted(seen[:6]) == sorted(seen[6:]) == [0, 1, 2, 3, 4, 5]
    assert seen[:6] != seen[6:]


def test_small_support_sets_are_whole_batches(make: Any) -> None:
    """A mini-batch is never larger than the support set."""
    shown.clear()
    support = Labelled(torch.ones(1, 3, 1, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64))
    method = make(adaptation_steps=2, adaptation_batch_size=5)
    method.adapt(_Noting(Slope(), "support", Squares()), at(method, 0.0), support)
    assert [len(batch) for batch in shown] == [3, 3]


@pytest.mark.parametrize("option", ["inner_steps", "batch_size", "adaptation_batch_size"])
def test_wrong_options_are_refused(make: Any, option: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=rf"{option}: '{option}' must be >= 1: 0"):
        make(**{option: 0})
