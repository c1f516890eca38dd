"""What every space must keep to: choices that can be made, designs in normal form, networks that learn."""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from optuna.distributions import check_distribution_compatibility
from torch import nn

from learnforge.kinds.searcher import Candidate
from learnforge.kinds.space import Choice, Design, Space
from learnforge.spec import TaskInfo
from learnforge_kit.search.view import SpaceView
from learnforge_testing.method import MethodSuite
from learnforge_testing.network import (
    Build,
    Shape,
    build_seeded,
    make_images,
    make_info,
    parameter_shapes,
    require_cost,
    require_independence,
    require_scores,
    require_scores_everywhere,
    require_seeded,
    require_step,
    usual_shapes,
)
from learnforge_testing.suite import require

DESIGNS = 20
"""Random designs in the checks of designs alone."""

BUILT = 3
"""Random designs in the checks of networks."""


class SpaceSuite(MethodSuite):
    """Checks of spaces, on random designs and on those at the ends of all ranges.

    A space whose networks want images of certain shapes overrides `shapes`.
    """

    kind: ClassVar[str] = "space"
    base: ClassVar[type] = Space

    def shapes(self) -> Sequence[Shape]:
        """Return input shapes, channels, height and width, the smallest first."""
        return usual_shapes(self.method.smallest_image)

    def result(self) -> Any:
        candidates = self._candidates(DESIGNS)
        network = build_seeded(self._build(candidates[0].design), make_info(self.shapes()[0]))
        return [[candidate.key for candidate in candidates], network.state_dict()]

    def test_choices_can_be_made(self) -> None:
        """Every choice has a name of its own, and values or a range that a searcher can pick from."""
        for seed in range(DESIGNS):
            self.make().design(_CarefulPick(np.random.default_rng(seed)))

    def test_choices_keep_their_values(self) -> None:
        """A name offers the same values in every design, and numbers of one sort, as a study wants."""
        known: dict[str, Any] = {}
        for candidate in self._candidates(2 * DESIGNS):
            for name, distribution in candidate.distributions.items():
                try:
                    check_distribution_compatibility(known.setdefault(name, distribution), distribution)
                except ValueError as error:
                    raise AssertionError(
                        f"{name} must offer the same in every design, got {known[name]} and {distribution}; "
                        "give choices that differ different names"
                    ) from error

    def test_there_is_more_than_one_design(self) -> None:
        """Random choices make different designs."""
        keys = {candidate.key for candidate in self._candidates(2 * DESIGNS)}
        require(len(keys) > 1, f"there must be a choice, but {2 * DESIGNS} random designs are the same")

    def test_own_choices_give_the_design_again(self) -> None:
        """A design is a function of its choices: made again from them, it is the same."""
        view = SpaceView(self.make())
        for candidate in self._candidates(DESIGNS):
            again = view.complete(candidate.choices, np.random.default_rng(1))
            require(
                again.key == candidate.key and again.design == candidate.design,
                f"choices must give the design that they gave before, {candidate.design}, got {again.design}",
            )

    def test_design_is_plain_data(self) -> None:
        """A design is JSON-able, and makes the same network after a round trip through JSON."""
        info = make_info(self.shapes()[0])
        for design in self._designs():
            try:
                back = json.loads(json.dumps(design, allow_nan=False))
            except (TypeError, ValueError) as error:
                raise AssertionError(f"a design must be JSON-able, got {design!r} ({error})") from error
            require(isinstance(design, dict), f"a design must be a dict, got {type(design).__name__}")
            wanted = parameter_shapes(build_seeded(self._build(design), info))
            try:
                found = parameter_shapes(build_seeded(self._build(back), info))
            except Exception as error:
                raise AssertionError(
                    f"{back}: must be built after a trip through JSON, got {type(error).__name__}: {error}"
                ) from error
            require(found == wanted, f"{back}: must make the same network after a trip through JSON")

    def test_equal_networks_have_equal_designs(self) -> None:
        """Designs are in normal form: choices that change nothing in the network leave no trace in them."""
        view, rng = SpaceView(self.make()), np.random.default_rng(0)
        for candidate in self._candidates(5):
            for _ in range(4):
                mutant = view.mutate(candidate, rng)
                require(
                    mutant.key == candidate.key or not self._are_equal(candidate.design, mutant.design),
                    "a design must hold only what shows in the network, one network has the designs "
                    f"{candidate.design} and {mutant.design}",
                )

    def test_design_alone_decides_the_structure(self) -> None:
        """Whatever the state of torch's generator, a design gives parameters of the same names and shapes."""
        info = make_info(self.shapes()[0])
        for design in self._designs():
            first, second = (
                parameter_shapes(build_seeded(self._build(design), info, seed)) for seed in (0, 1)
            )
            require(
                first == second,
                f"{design}: must give one structure whatever is drawn, got parameters {first} and {second}",
            )

    def test_building_leaves_the_design_alone(self) -> None:
        """`build` does not change the design that it is given."""
        for design in self._designs():
            given = copy.deepcopy(design)
            self.make().build(given, make_info(self.shapes()[0]))
            require(given == design, f"`build` must leave the design {design} alone, it became {given}")

    def test_ends_of_ranges_can_be_built(self) -> None:
        """The lowest and the highest of all choices make networks that give a score for each class."""
        info = make_info(self.shapes()[0])
        for end in (0, -1):
            design = self.make().design(_EndPick(end))
            try:
                network = build_seeded(self._build(design), info)
            except Exception as error:
                raise AssertionError(
                    f"{design}: must be built, as every choice, got {type(error).__name__}: {error}"
                ) from error
            require_scores(network, info, 2, str(design))

    def test_networks_give_a_score_for_each_class(self) -> None:
        """Scores are float [batch, class] and finite, for images, batches and classes of several sizes."""
        for design in self._designs():
            require_scores_everywhere(self._build(design), self.shapes(), str(design))

    def test_networks_train_a_step(self) -> None:
        """One training step has a finite loss, and every parameter gets a finite gradient."""
        for design in self._designs():
            require_step(self._build(design), self.shapes()[0], str(design))

    def test_networks_score_images_one_by_one(self) -> None:
        """In eval mode an image's scores depend on it alone: not on chance, its batch or an earlier call."""
        for design in self._designs():
            require_independence(self._build(design), self.shapes()[0], str(design))

    def test_cost_is_known_before_building(self) -> None:
        """On the meta device a network costs the parameters that it really has."""
        for design in self._designs():
            require_cost(self._build(design), self.shapes()[0], str(design))

    def test_weights_are_drawn_from_torchs_generator(self) -> None:
        """The same seed of torch's global generator gives the same weights, another one others."""
        for design in self._designs():
            require_seeded(self._build(design), self.shapes()[0], str(design))

    def _candidates(self, count: int) -> list[Candidate]:
        view = SpaceView(self.make())
        return [view.random(np.random.default_rng(seed)) for seed in range(count)]

    def _designs(self) -> list[Design]:
        return [candidate.design for candidate in self._candidates(BUILT)]

    def _build(self, design: Design) -> Build:
        """Return the building of a design, each time from a copy of it."""
        space = self.make()

        def build(info: TaskInfo) -> nn.Module:
            network: nn.Module = space.build(copy.deepcopy(design), info)
            return network

        return build

    def _are_equal(self, one: Design, other: Design) -> bool:
        """Tell whether two designs make networks that nothing tells apart."""
        info = make_info(self.shapes()[0])
        networks = [build_seeded(self._build(design), info) for design in (one, other)]
        if _structure(networks[0]) != _structure(networks[1]):
            return False
        states = [network.state_dict() for network in networks]
        if not all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items()):
            return False
        # large inputs tell apart what bounds its values from what does not
        images = 30 * make_images(info, 4)
        for is_training in (True, False):
            scores = [_score(network.train(is_training), images) for network in networks]
            if not torch.equal(*scores):
                return False
        return True


class _CarefulPick:
    """Makes random choices, and refuses those that no searcher can make."""

    def __init__(self, rng: np.random.Generator):
        self._rng, self._names = rng, set[str]()

    def choice(self, name: str, choices: Sequence[Choice]) -> Any:
        self._enter(name)
        values = list(choices)
        require(values, f"{name}: there must be a value to choose")
        wrong = [value for value in values if not isinstance(value, bool | int | float | str | None)]
        require(not wrong, f"{name}: values must be numbers, text, true, false or None, got {wrong}")
        repeated = [value for value in values if values.count(value) > 1]
        require(not repeated, f"{name}: values must differ, got {values}")
        return values[int(self._rng.integers(len(values)))]

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        self._enter(name)
        self._range(name, low, high, log, 1)
        require(
            all(isinstance(value, int) and not isinstance(value, bool) for value in (low, high, step)),
            f"{name}: low, high and step must be whole numbers, got {low!r}, {high!r} and {step!r}",
        )
        require(
            step >= 1 and (high - low) % step == 0,
            f"{name}: high must be low and a number of steps, got {low} to {high} by {step}",
        )
        require(step == 1 or not log, f"{name}: a logarithmic range must have no step, got {step}")
        return int(low + step * self._rng.integers((high - low) // step + 1))

    def number(self, name: str, low: float, high: float, log: bool = False) -> float:
        self._enter(name)
        self._range(name, low, high, log, 0)
        require(np.isfinite([low, high]).all(), f"{name}: a range must be finite, got {low} to {high}")
        return float(self._rng.uniform(low, high))

    def _enter(self, name: str) -> None:
        require(isinstance(name, str) and name, f"a choice must have a name, got {name!r}")
        require(
            name not in self._names, f"{name}: must be asked for once in a design, it was asked for again"
        )
        self._names.add(name)

    def _range(self, name: str, low: float, high: float, is_log: bool, least: int) -> None:
        require(low <= high, f"{name}: low must be at most high, got {low} to {high}")
        require(
            not is_log or (low >= least and low > 0),
            f"{name}: a logarithmic range must begin above 0, got {low}",
        )


class _EndPick:
    """Makes the first or the last of every choice, 0 or -1."""

    def __init__(self, end: int):
        self._end = end

    def choice(self, name: str, choices: Sequence[Choice]) -> Any:
        return list(choices)[self._end]

    def integer(self, name: str, low: int, high: int, step: int = 1, log: bool = False) -> int:
        return (low, low + (high - low) // step * step)[self._end]

    def number(self, name: str, low: float, high: float, log: bool = False) -> float:
        return float((low, high)[self._end])


def _structure(network: nn.Module) -> Any:
    """Return all that is written in a network but for its weights."""
    return str(network), parameter_shapes(network), [_settings(layer) for layer in network.modules()]


def _settings(layer: nn.Module) -> Mapping[str, str]:
    """Return a layer's own attributes as text: numbers, text, functions; what a repr need not show."""
    own = {name: value for name, value in vars(layer).items() if name not in vars(nn.Module())}
    return {"type": type(layer).__qualname__} | {name: _words(value) for name, value in own.items()}


def _words(value: Any) -> str:
    if isinstance(value, functools.partial):
        return repr((_words(value.func), value.args, value.keywords))
    return str(getattr(value, "__qualname__", None) or repr(value))


def _score(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.random.fork_rng([]), torch.no_grad():
        torch.manual_seed(0)
        scores: torch.Tensor = network(images)
    return scores
