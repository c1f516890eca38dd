"""NSGA-II: generations, parents, crossover, distinct designs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from learnforge import Plugins, RecipeError
from learnforge.options.structure import build
from learnforge_kit import SpaceView
from learnforge_plugins.searchers import nsga2 as module
from learnforge_testing.landscapes import Letters

SPACE = Letters((3,) * 6)
BOTH = ("maximize", "minimize")


def trial(word: str, *values: float) -> FrozenTrial:
    params = {f"place{i}": letter for i, letter in enumerate(word)}
    offered: dict[str, BaseDistribution] = dict.fromkeys(params, CategoricalDistribution("abc"))
    return create_trial(params=params, distributions=offered, values=list(values))


def numbered(trials: list[FrozenTrial]) -> list[FrozenTrial]:
    for number, one in enumerate(trials):
        one.number = number
    return trials


def population(history: list[FrozenTrial], size: int, directions: Any = BOTH) -> list[str]:
    sampler: Any = module.NSGA2(population=size).sampler(0, directions, SpaceView(SPACE))
    members = sampler._population(numbered(history), list(directions), SpaceView(SPACE))
    return ["".join(member.params.values()) for member in members]


def test_a_generation_replaces_the_worst() -> None:
    """After as many children as members the best of both stay: by rank, then the least crowded."""
    first = [trial("aaaaaa", 0.5, 50.0), trial("bbbbbb", 0.9, 90.0)]
    better = [trial("cccccc", 0.6, 40.0), trial("aaabbb", 0.1, 99.0)]
    assert population(first, 2) == ["aaaaaa", "bbbbbb"] or population(first, 2) == ["bbbbbb", "aaaaaa"]
    assert set(population([*first, *better], 2)) == {"bbbbbb", "cccccc"}
    assert set(population([*first, better[0]], 2)) == {
        "aaaaaa",
        "bbbbbb",
    }  # half a generation changes nothing


def test_equal_designs_are_one_member() -> None:
    """A design that came twice takes one place, the older one's."""
    history = [trial("aaaaaa", 0.9), trial("bbbbbb", 0.1), trial("aaaaaa", 0.9), trial("cccccc", 0.5)]
    assert population(history, 2, ("maximize",)) == ["aaaaaa", "cccccc"]


def test_a_resumed_search_has_the_same_population() -> None:
    """Merged generation by generation, or all at once, the population is the same."""
    rng = np.random.default_rng(0)
    history = [trial("".join(rng.choice(list("abc"), 6)), *rng.random(2)) for _ in range(40)]
    sampler: Any = module.NSGA2(population=5).sampler(0, BOTH, SpaceView(SPACE))
    numbered(history)
    for count in range(5, 41):
        step = sampler._population(history[:count], list(BOTH), SpaceView(SPACE))
    assert ["".join(member.params.values()) for member in step] == population(history, 5)


def test_a_child_has_both_parents() -> None:
    """Each choice is one of the parents' by a coin, but for a mutation in six."""
    rng, seen = np.random.default_rng(0), Counter[str]()
    for _ in range(300):
        seen.update(module._cross(trial("aaaaaa", 0.0), trial("bbbbbb", 0.0), rng).values())
    total = sum(seen.values())
    # a sixth is mutated, and then goes to either of the two other letters
    assert seen["c"] / total == pytest.approx(1 / 12, abs=0.02)
    assert seen["a"] / total == pytest.approx(11 / 24, abs=0.03)


def test_choices_that_one_parent_lacks_come_from_the_other() -> None:
    """Parents of different lengths make a child with the choices of either."""
    rng = np.random.default_rng(0)
    child = module._cross(trial("aaa", 0.0), trial("aaaaaa", 0.0), rng)
    assert set(child) == {f"place{i}" for i in range(6)}


def test_the_better_of_two_is_a_parent() -> None:
    """Of P members in order, the k-th is a parent with probability (2 (P - k) + 1) / P^2."""
    sampler: Any = module.NSGA2(population=2).sampler(0, BOTH, SpaceView(SPACE))
    rng = np.random.default_rng(0)
    found = Counter(sampler._parent([0, 1, 2, 3], rng) for _ in range(4000))
    assert [found[i] / 4000 for i in range(4)] == pytest.approx([7 / 16, 5 / 16, 3 / 16, 1 / 16], abs=0.03)


def test_known_designs_are_made_anew() -> None:
    """Almost no proposal repeats a design of the history."""
    rng = np.random.default_rng(0)
    words = sorted({"".join(rng.choice(list("abc"), 6)) for _ in range(60)})
    history = numbered([trial(word, float(word.count("a"))) for word in words])
    sampler: Any = module.NSGA2(population=10).sampler(0, ["maximize"], SpaceView(SPACE))
    found = [sampler.propose(history, np.random.default_rng(s), ["maximize"]) for s in range(40)]
    assert sum("".join(choices.values()) in words for choices in found) <= 1


def test_wrong_options_are_refused(plugins: Plugins) -> None:
    """A population needs two."""
    with pytest.raises(RecipeError, match="'population' must be >= 2: 1"):
        build(plugins.load("searcher", "nsga2"), {"population": 1}, "test")
