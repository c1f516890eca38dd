"""Toy spaces and landscapes over them: a value for every design at once, where a search would train."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from attrs import frozen
from torch import nn

from learnforge.kinds.space import Choice, Design, Pick, Space
from learnforge.randomness import derive
from learnforge.spec import TaskInfo
from learnforge_kit.search.sampler import HistorySampler
from learnforge_plugins.stages.search.objective import Objective, Place, TrialJob, TrialResult

MOST_LAYERS = 4
"""Most layers of a `Mixed` design."""


class _ToySpace(Space):
    """Builds the same tiny network for every design: only the choices matter."""

    def build(self, design: Design, task: TaskInfo) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(task.input_shape), task.outputs))


@frozen
class Letters(_ToySpace):
    """Words: one letter for each place, every word another design.

    Args:
        sizes: How many letters there are to choose from at each place, from 1 to 26.
    """

    sizes: tuple[int, ...]

    def design(self, pick: Pick) -> Design:
        alphabet = "abcdefghijklmnopqrstuvwxyz"
        return {f"place{i}": pick.choice(f"place{i}", alphabet[:size]) for i, size in enumerate(self.sizes)}


@frozen
class Mixed(_ToySpace):
    """Every sort of choice: categories, numbers, logarithms, steps, and layers until one says to stop.

    A number appears in the design as its place in its range, from 0 to 1.
    """

    def design(self, pick: Pick) -> Design:
        design = self.begin(pick)
        layers = 0
        while layers < MOST_LAYERS and pick.choice(f"layer{layers}.exists", (True, False)):
            design |= self._layer(pick, f"layer{layers}")
            layers += 1
        if layers:  # a range that depends on other choices
            design["groups"] = (pick.integer("groups", 1, layers + 1) - 1) / layers
        return design

    def begin(self, pick: Pick) -> Design:
        """Make the choices that every design has."""
        return {
            "kind": pick.choice("kind", ("plain", "dense", "gated")),
            "bias": pick.choice("bias", (True, False, None)),
            "rate": math.log10(pick.number("rate", 1e-4, 1.0, log=True)) / 4 + 1,
            "dropout": pick.number("dropout", 0.0, 0.5) * 2,
            "heads": math.log2(pick.integer("heads", 1, 64, log=True)) / 6,
        }

    def _layer(self, pick: Pick, name: str) -> Design:
        operation = pick.choice(f"{name}.op", ("pool", "conv", "mix"))
        if operation != "conv":
            return {f"{name}.op": operation}
        width = pick.integer(f"{name}.width", 8, 64, step=8)
        return {f"{name}.op": operation, f"{name}.width": width / 64}


@frozen
class Landscape:
    """What designs of a toy space are worth: choices alone, and neighbouring categories together.

    A category is worth something in [-1, 1]; a number most, 1, at a place of its own, and less with the
    square of the distance from it; a pair of categories something in [-0.5, 0.5].

    Args:
        seed: Which landscape.
    """

    seed: int

    def __call__(self, design: Mapping[str, Choice]) -> float:
        """Return the value of a design: more is better."""
        names = [name for name, value in design.items() if not isinstance(value, float)]
        pairs = [(f"{a} {b}", f"{design[a]} {design[b]}") for a, b in itertools.pairwise(names)]
        alone = sum(self._worth(name, value) for name, value in design.items())
        return alone + 0.5 * sum(self._signed(*pair) for pair in pairs)

    def _worth(self, name: str, value: Choice) -> float:
        if isinstance(value, float):
            return 1.0 - 4.0 * (value - (self._signed(name, "best") + 1.0) / 2.0) ** 2
        return self._signed(name, str(value))

    def _signed(self, name: str, value: str) -> float:
        return derive(self.seed, name, value) / 2**62 - 1.0


@frozen
class Instant(Objective):
    """Evaluates every design at once, with a landscape's value as its accuracy.

    Args:
        space: The space.
        landscape: Gives the value of a design.
    """

    space: Space
    landscape: Callable[[Design], float]

    def evaluate(self, job: TrialJob, place: Place) -> TrialResult:
        """Return the landscape's value."""
        return TrialResult(job.number, {"accuracy": self.landscape(job.design)}, 0.0)


class UniformSampler(HistorySampler):
    """Draws every choice uniformly at random: what a searcher must beat."""

    def propose(
        self, history: Sequence[optuna.trial.FrozenTrial], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        return {}
