"""Local search: neighbours of the best design, the next best where these are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from learnforge import Plugins
from learnforge_kit import SpaceView
from learnforge_testing.landscapes import Letters

SPACE = Letters((2, 3))


def trial(word: str, *values: float) -> FrozenTrial:
    params = {f"place{i}": letter for i, letter in enumerate(word)}
    offered = {"place0": CategoricalDistribution("ab"), "place1": CategoricalDistribution("abc")}
    return create_trial(params=params, distributions=offered, values=list(values))


def proposals(plugins: Plugins, history: list[FrozenTrial], directions: Any = ("maximize",)) -> set[str]:
    sampler: Any = plugins.load("searcher", "local")(initial=2).sampler(0, directions, SpaceView(SPACE))
    found = [sampler.propose(history, np.random.default_rng(seed), list(directions)) for seed in range(40)]
    return {"".join(choices.values()) for choices in found}


def test_first_designs_are_random(plugins: Plugins) -> None:
    """Until `initial` trials are known nothing is proposed."""
    assert proposals(plugins, [trial("aa", 1.0)]) == {""}


def test_neighbours_of_the_best_are_proposed(plugins: Plugins) -> None:
    """All designs one choice away from the best come up, in random order, and no others."""
    assert proposals(plugins, [trial("aa", 1.0), trial("bb", 0.0)]) == {"ba", "ab", "ac"}
    assert proposals(plugins, [trial("aa", 1.0), trial("bb", 0.0)], ("minimize",)) == {"ab", "ba", "bc"}


def test_known_neighbours_are_left_out(plugins: Plugins) -> None:
    """What was evaluated is not proposed again."""
    history = [trial("aa", 1.0), trial("ab", 0.0), trial("ba", 0.1)]
    assert proposals(plugins, history) == {"ac"}


def test_a_better_neighbour_is_where_the_search_stands(plugins: Plugins) -> None:
    """As soon as a neighbour is better, its own neighbours are proposed."""
    assert proposals(plugins, [trial("aa", 1.0), trial("ba", 2.0)]) == {"bb", "bc"}


def test_a_local_optimum_is_left_for_the_next_best(plugins: Plugins) -> None:
    """Where all neighbours of the best are known, those of the second best come up."""
    history = [trial("aa", 9.0), trial("ab", 5.0), trial("ac", 1.0), trial("ba", 2.0)]
    assert proposals(plugins, history) == {"bb"}
    whole = [*history, trial("bb", 0.0), trial("bc", 0.0)]
    assert proposals(plugins, whole) == {""}


def test_several_objectives_start_from_the_pareto_set(plugins: Plugins) -> None:
    """The best is one that no other beats; of several the least crowded, then the older."""
    history = [trial("aa", 0.5, 10.0), trial("bb", 0.9, 1.0), trial("bc", 0.4, 20.0)]
    assert proposals(plugins, history, ("maximize", "minimize")) == {"ab", "ba"}
