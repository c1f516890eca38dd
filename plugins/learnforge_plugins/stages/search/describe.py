"""What a space holds: how many designs, which choices, what they cost."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

from learnforge.errors import Problem, RecipeError
from learnforge.files import write_text
from learnforge.kinds.searcher import Candidate
from learnforge.kinds.space import Choice, Design, Space, design_key
from learnforge.plugins.registry import Plugins
from learnforge.randomness import seeded
from learnforge.spec import TaskInfo
from learnforge_kit.costs.layers import time_layers
from learnforge_kit.costs.measuring import measure_cost
from learnforge_kit.description import read_table
from learnforge_kit.search.sampler import generator
from learnforge_kit.search.view import SpaceView

COUNTED = 200_000
"""Spaces with more ways to choose than this are not counted one by one."""

PROBES = 500
"""Random designs that show which choices there are."""


@frozen
class SpaceDescription:
    """What `learnforge describe space` prints.

    Args:
        size_words: How many designs there are, in words.
        choices: Rows (name, values, share of random designs in which it comes up).
        samples: Rows (design, parameters, multiply-adds, activations).
    """

    size_words: str
    choices: list[tuple[str, str, str]]
    samples: list[tuple[str, str, str, str]]


def parse_space(text: str, plugins: Plugins) -> Space:
    """Read a space: its name, or a table as a recipe would have it.

    Raises:
        RecipeError: It is not a space.
    """
    problems: list[Problem] = []
    made = plugins.resolve("space", read_table(text), "space", problems)
    if not isinstance(made, Space):
        raise RecipeError(problems or [Problem("space", f"must be a Space, got {made!r}")], "space")
    return made


def make_info(shape: str, classes: int) -> TaskInfo:
    """Describe a task by its shape alone, `3x32x32`.

    Raises:
        RecipeError: The shape cannot be read.
    """
    parts = shape.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise RecipeError([Problem("shape", f"must look like 3x32x32, got {shape!r}")], "space")
    channels, height, width = map(int, parts)
    names = tuple(str(i) for i in range(classes))
    return TaskInfo(
        "described", names, names, (channels, height, width), (0.5,) * channels, (0.25,) * channels
    )


def describe_space(space: Space, info: TaskInfo, samples: int, seed: int) -> SpaceDescription:
    """Look at a space without training anything.

    Args:
        space: The space.
        info: Shape of images, and classes, for the costs.
        samples: Random designs to show.
        seed: Their seed.
    """
    view, rng = SpaceView(space), generator(seed, "describe")
    probes = [view.random(rng) for _ in range(PROBES)]
    return SpaceDescription(
        count_words(space, probes), _choices(probes), [_sample(space, c, info) for c in probes[:samples]]
    )


def _choices(probes: list[Candidate]) -> list[tuple[str, str, str]]:
    offered: dict[str, BaseDistribution] = {}
    asked: dict[str, int] = {}
    for probe in probes:
        for name, distribution in probe.distributions.items():
            offered.setdefault(name, distribution)
            asked[name] = asked.get(name, 0) + 1
    return [(name, _values(offered[name]), _share(asked[name] / len(probes))) for name in offered]


def _share(share: float) -> str:
    return "always" if share == 1 else f"in {share:.0%}"


def _values(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(map(str, distribution.choices))
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    step = f" by {distribution.step}" if distribution.step not in (None, 1) else ""
    return f"{distribution.low} to {distribution.high}{step}{', logarithmic' if distribution.log else ''}"


def _sample(space: Space, candidate: Candidate, info: TaskInfo) -> tuple[str, str, str, str]:
    design = json.dumps(candidate.design)
    try:
        with torch.device("meta"):
            cost = measure_cost(space.build(candidate.design, info), info)
    except Exception as error:  # what cannot be built for these images is shown as such
        return design, f"cannot be built: {type(error).__name__}: {error}", "", ""
    return design, f"{cost.parameters:,}", f"{cost.macs:,}", f"{cost.peak_activation_bytes / 1024:,.0f} KiB"


def count_words(space: Space, probes: Sequence[Candidate]) -> str:
    """Say how many designs a space has: counted, where that takes seconds, else an estimate of the ways
    to choose.

    The mean, over random designs, of the product of how many values each of their choices
    had is an unbiased estimate (Knuth, Estimating the efficiency of backtrack programs,
    1975. doi:10.1090/S0025-5718-1975-0373371-6).

    Args:
        space: The space.
        probes: Random designs.
    """
    offered = [d for probe in probes for d in probe.distributions.values()]
    if any(isinstance(d, FloatDistribution) and not d.single() for d in offered):
        return "designs without number: some choice is a number from a continuous range"
    counter = _Counter()
    keys = set()
    while counter.ways <= COUNTED:
        keys.add(design_key(space.design(counter)))
        if not counter.advance():
            return f"{len(keys):,} designs, out of {counter.ways:,} ways to choose"
    products = [math.prod(map(_count, probe.distributions.values())) for probe in probes]
    return f"about {sum(products) / len(products):.1e} ways to choose"


def _count(distribution: BaseDistribution) -> int:
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, FloatDistribution):
        return 1
    assert isinstance(distribution, IntDistribution)
    return (distribution.high - distribution.low) // distribution.step + 1


class _Counter:
    """Makes the choices of every design in turn, as an odometer would."""

    def __init__(self) -> None:
        self._wheels: list[list[int]] = []  # [place, size]
        self._at = 0
        self.ways = 1

    def advance(self) -> bool:
        """Turn the last wheel that can be turned; False after the last way."""
        while self._wheels and self._wheels[-1][0] == self._wheels[-1][1] - 1:
            self._wheels.pop()
        self._at = 0
        if not self._wheels:
            return False
        self._wheels[-1][0] += 1
        self.ways += 1
        return True

    def choice(self, name: str, choices: Any) -> Choice:
        values = list(choices)
        chosen: Choice = values[self._turn(len(values))]
        return chosen

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        return low + step * self._turn((high - low) // step + 1)

    def number(self, name: str, low: float, high: float, log: bool = False) -> float:
        return low

    def _turn(self, size: int) -> int:
        if self._at == len(self._wheels):
            self._wheels.append([0, size])
        place = self._wheels[self._at][0]
        self._at += 1
        return place


def time_space(space: Space, info: TaskInfo, file: Path, samples: int, seed: int) -> tuple[int, int]:
    """Time the layers of random designs on this machine, one thread, and add them to a table
    for `cost.lookup`.

    Returns:
        How many layers were timed, and how many the file holds.
    """
    known: dict[str, float] = json.loads(file.read_text(encoding="utf-8"))["layers"] if file.exists() else {}
    before = len(known)
    for network in random_networks(space, info, samples, seed):
        known |= time_layers(network, info, threads=1, known=known)
    write_text(file, json.dumps({"unit": "ms", "layers": dict(sorted(known.items()))}, indent=1) + "\n")
    return len(known) - before, len(known)


def random_designs(space: Space, samples: int, seed: int) -> Iterator[Design]:
    """Yield random designs of a space."""
    view, rng = SpaceView(space), generator(seed, "describe")
    for _ in range(samples):
        yield view.random(rng).design


def random_networks(space: Space, info: TaskInfo, samples: int, seed: int) -> Iterator[nn.Module]:
    """Yield the networks of random designs, with fresh weights."""
    for design in random_designs(space, samples, seed):
        with seeded(seed):
            network = space.build(design, info)
        yield network
