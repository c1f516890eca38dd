"""Sine waves: every episode is one, its numbers are those of the paper, and depend on the index alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from learnforge import EpisodeShape, EpisodeSource, Plugins, RecipeError
from learnforge.options.structure import build

CPU = torch.device("cpu")


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make a source of episodes from options of the task."""

    def source(ways: int, shots: int, queries: int, **options: Any) -> EpisodeSource:
        task = build(plugins.load("task", "sine"), options, "test").load()
        return task.episodes("train", EpisodeShape(ways, shots, queries), CPU)  # type: ignore[no-any-return]

    return source


def test_points_lie_on_one_wave(make: Any) -> None:
    """Support and query of a task are points of the same A sin(x - p), found by least squares."""
    episodes = make(1, 20, 30).draw(0, torch.arange(50))
    for task in range(50):
        x, y = episodes.support.images[task].flatten(), episodes.support.labels[task].flatten()
        waves = torch.stack([x.sin(), x.cos()], 1).double()
        a, b = torch.linalg.lstsq(waves, y[:, None].double()).solution.flatten().tolist()
        amplitude, phase = math.hypot(a, b), math.atan2(-b, a) % (2 * math.pi)
        assert 0.1 <= amplitude <= 5
        assert -1e-4 <= phase <= math.pi + 1e-4
        query = episodes.queries
        expected = amplitude * torch.sin(query.images[task].flatten() - phase)
        assert torch.allclose(query.labels[task].flatten(), expected, atol=1e-4)


def test_shapes_and_ranges(make: Any) -> None:
    """A point is an image of one pixel in [-5, 5], its target a number; both splits have their size."""
    episodes = make(2, 5, 10).draw(0, torch.arange(400))
    assert episodes.support.images.shape == (400, 10, 1, 1, 1)
    assert episodes.queries.labels.shape == (400, 20, 1)
    x = episodes.queries.images.flatten()
    assert -5 <= float(x.min()) < -4.98
    assert 4.98 < float(x.max()) < 5
    assert abs(float(x.mean())) < 0.1
    assert float(make(1, 5, 10, reach=1.0).draw(0, torch.arange(9)).queries.images.abs().max()) <= 1


def test_an_episode_is_a_function_of_seed_and_index(make: Any) -> None:
    """The same numbers in another batch, other ones with another seed."""
    source = make(1, 5, 10)
    whole, part = source.draw(3, torch.arange(8)), source.draw(3, torch.tensor([5, 2]))
    assert torch.equal(part.support.images, whole.support.images[[5, 2]])
    assert torch.equal(part.queries.labels, whole.queries.labels[[5, 2]])
    assert not torch.equal(source.draw(4, torch.arange(8)).support.images, whole.support.images)


def test_what_it_depends_on_is_in_its_content(plugins: Plugins) -> None:
    """Other ranges are other data, so that a run does not take them for the same."""
    cls = plugins.load("task", "sine")
    assert cls().load().content != cls(amplitude=2.0).load().content


@pytest.mark.parametrize(("option", "value"), [("amplitude", 0.1), ("reach", 0.0)])
def test_wrong_options_are_refused(plugins: Plugins, option: str, value: float) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=f"{option}: '{option}' must be > {value}"):
        build(plugins.load("task", "sine"), {option: value}, "test")
