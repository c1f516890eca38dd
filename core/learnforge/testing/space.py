"""The duties of a search space: designs are plain data in normal form, and what they build can be trained."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from learnforge.randomness import seeded
from learnforge.space import Design, Space, design_key, measure_cost
from learnforge.stages.search.sampler import contains
from learnforge.stages.search.view import Candidate, SpaceView
from learnforge.task import TaskInfo
from learnforge.testing.method import MethodSuite
from learnforge.testing.network import require_outputs, require_training, shapes_of
from learnforge.testing.suite import require
from learnforge.testing.toys import make_info

DESIGNS = 12
"""Random designs that are looked at."""


class SpaceSuite(MethodSuite):
    """Checks of a space over random designs.

    Args:
        shape: Channels, height and width of the images that the networks are built for.
    """

    base: ClassVar[type] = Space
    kind: ClassVar[str] = "space"
    shape: ClassVar[tuple[int, int, int]] = (1, 8, 8)

    def result(self) -> Any:
        candidates = list(self.candidates())
        with seeded(0):
            network = self.make().build(candidates[0].design, self.task)
        return [[candidate.key for candidate in candidates], dict(network.state_dict())]

    @property
    def task(self) -> TaskInfo:
        """The task that networks are built for."""
        return make_info(self.shape, 3)

    def candidates(self, count: int = DESIGNS) -> Iterator[Candidate]:
        """Draw designs, each from a seed of its own."""
        view = SpaceView(self.make())
        return (view.random(np.random.default_rng(seed)) for seed in range(count))

    def build(self, design: Design, task: TaskInfo | None = None, seed: int = 0) -> nn.Module:
        """Build a design's network with weights from a seed, as the core does."""
        with seeded(seed):
            network: nn.Module = self.make().build(design, task or self.task)
        return network

    def test_designs_are_plain_data(self) -> None:
        """A design survives a round trip through JSON, and builds the same network afterwards."""
        for candidate in self.candidates():
            again = json.loads(json.dumps(candidate.design))
            require(
                again == candidate.design, f"must equal what JSON makes of it, {again}: {candidate.design}"
            )
            same = shapes_of(self.build(again)) == shapes_of(self.build(candidate.design))
            require(same, f"JSON must not change the network of {candidate.design}")

    def test_designs_differ(self) -> None:
        """A space is a choice: random draws give more than one design."""
        keys = {candidate.key for candidate in self.candidates(40)}
        require(len(keys) > 1, "40 random draws must give more than one design")

    def test_a_draw_is_a_function_of_its_generator(self) -> None:
        """Equal draws make equal choices and designs."""
        first, again = ([(c.choices, c.key) for c in self.candidates()] for _ in range(2))
        require(first == again, "the same draws must give the same designs")

    def test_choices_are_inside_their_ranges(self) -> None:
        """Every choice that is asked for has a value that it can have."""
        for candidate in self.candidates():
            for name, value in candidate.choices.items():
                is_inside = contains(candidate.distributions[name], value)
                require(is_inside, f"{name} = {value!r} is not in {candidate.distributions[name]}")

    def test_normal_form_is_idempotent(self) -> None:
        """The choices of a design, made again, give that design."""
        view = SpaceView(self.make())
        for candidate in self.candidates():
            again = view.complete(candidate.choices, np.random.default_rng(99))
            require(again.key == candidate.key, f"{candidate.choices} must give {candidate.design} again")

    def test_equal_designs_build_equal_networks(self) -> None:
        """Whatever choices lead to a design, its network has the same layers."""
        seen: dict[str, Any] = {}
        for candidate in self.candidates(3 * DESIGNS):
            shapes = shapes_of(self.build(candidate.design))
            require(
                seen.setdefault(candidate.key, shapes) == shapes, f"{candidate.design} must be one network"
            )

    def test_every_choice_counts(self) -> None:
        """Choices that are asked for change the design: a mutation of one usually gives another design."""
        view = SpaceView(self.make())
        rng = np.random.default_rng(0)
        pairs = [(candidate, view.mutate(candidate, rng)) for candidate in self.candidates(30)]
        changed = sum(candidate.key != mutant.key for candidate, mutant in pairs)
        require(changed >= 15, f"half of all mutations must change the design, {changed} of 30 do")

    def test_networks_give_class_scores(self) -> None:
        """Scores are [batch, outputs] for any number of images and classes."""
        for candidate in self.candidates(4):
            for outputs in (2, 5):
                task = make_info(self.shape, outputs)
                require_outputs(self.build(candidate.design, task), task)

    def test_networks_train(self) -> None:
        """One step changes every parameter by a finite gradient and lowers nothing to NaN."""
        for candidate in self.candidates(6):
            require_training(self.build(candidate.design), self.task)

    def test_weights_come_from_torch_generator(self) -> None:
        """The same seed gives the same weights, another one others."""
        design = next(iter(self.candidates())).design
        first, again, other = (self.build(design, seed=seed).state_dict() for seed in (0, 0, 1))
        require(
            all(torch.equal(t, again[n]) for n, t in first.items()), "one seed must give one set of weights"
        )
        require(any(not torch.equal(t, other[n]) for n, t in first.items()), "another seed must give others")

    def test_building_leaves_the_design_alone(self) -> None:
        """A design is data that others hold."""
        for candidate in self.candidates(4):
            before = copy.deepcopy(candidate.design)
            self.build(candidate.design)
            require(
                candidate.design == before, f"`build` must not change {before}, it made {candidate.design}"
            )
            require(design_key(before) == candidate.key, "a design's key must not depend on its network")

    def test_cost_matches_the_network(self) -> None:
        """What is counted on the meta device, before anything is built for real, is what is built."""
        for candidate in self.candidates(4):
            with torch.device("meta"):
                cost = measure_cost(self.make().build(candidate.design, self.task), self.task)
            own = sum(p.numel() for p in self.build(candidate.design).parameters())
            require(
                cost.parameters == own,
                f"counted {cost.parameters} parameters on the meta device, built {own}",
            )
            require(cost.macs > 0, "a network must cost multiply-adds")
