"""Aging evolution: Optuna's own suite, who lives and who is parent, resume, and a win over random search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.testing.pytest_samplers import BasicSamplerTestCase
from optuna.trial import FrozenTrial, create_trial

from learnforge import Plugins, RecipeError
from learnforge.options.structure import build

optuna.logging.set_verbosity(optuna.logging.WARNING)

SPACE: dict[str, BaseDistribution] = {f"x{i}": IntDistribution(0, 9) for i in range(8)}


class TestAsOptunaSampler(BasicSamplerTestCase):
    """Optuna's suite for samplers."""

    @pytest.fixture
    def sampler(self, plugins: Plugins) -> Callable[[], optuna.samplers.BaseSampler]:
        """Make a sampler that mutates from the third trial on."""
        return lambda: plugins.load("searcher", "evolution")(population=2).sampler(0, ["minimize"])


@pytest.fixture
def propose(plugins: Plugins) -> Any:
    """Ask for the choices after a history."""

    def ask(
        history: Sequence[FrozenTrial],
        seed: int,
        directions: Sequence[str] = ("maximize",),
        **options: Any,
    ) -> Mapping[str, Any]:
        sampler: Any = plugins.load("searcher", "evolution")(**options).sampler(0, directions)
        return sampler.propose(history, np.random.default_rng(seed), directions)  # type: ignore[no-any-return]

    return ask


def _member(mark: int, *values: float) -> FrozenTrial:
    """A finished trial, all of whose choices are `mark`."""
    return create_trial(params=dict.fromkeys(SPACE, mark), distributions=SPACE, values=list(values))


def _parent(child: Mapping[str, Any]) -> int:
    """Return the mark that all but one of a child's choices have."""
    values = list(child.values())
    parent = max(set(values), key=values.count)
    assert values.count(parent) == len(values) - 1, "a child differs from its parent in exactly one choice"
    return int(parent)


def test_first_designs_are_random(propose: Any) -> None:
    """Until the population is full nothing is proposed, so that every choice is drawn at random."""
    history = [_member(i, float(i)) for i in range(4)]
    for count in range(4):
        assert propose(history[:count], 0, population=4, tournament=2) == {}
    assert propose(history, 0, population=4, tournament=2) != {}


def test_child_differs_in_one_choice(propose: Any) -> None:
    """A child has one of its parent's choices changed, and every choice is changed at times."""
    changed = set()
    for seed in range(100):
        child = propose([_member(5, 1.0), _member(5, 2.0)], seed, population=2)
        assert _parent(child) == 5
        changed |= {name for name, value in child.items() if value != 5}
    assert changed == set(SPACE)


def test_oldest_is_no_parent(propose: Any) -> None:
    """The best design of all stops being a parent once P younger ones have joined."""
    history = [_member(9, 100.0), *[_member(i, float(i)) for i in range(3)]]
    old_enough = [_parent(propose(history, seed, population=3, tournament=8)) for seed in range(40)]
    assert 9 not in old_enough
    assert max(set(old_enough), key=old_enough.count) == 2
    still_alive = [_parent(propose(history, seed, population=4, tournament=8)) for seed in range(40)]
    assert 9 in still_alive


def test_winner_of_the_tournament_is_the_parent(propose: Any) -> None:
    """With a tournament that draws everybody the best is always the parent, by the direction of the study."""
    history = [_member(i, float((3 * i) % 5)) for i in range(5)]  # the best is 3, the worst 0
    for seed in range(20):
        assert _parent(propose(history, seed, population=5, tournament=200)) == 3
        assert _parent(propose(history, seed, ["minimize"], population=5, tournament=200)) == 0


def test_tournament_of_one_draws_everybody(propose: Any) -> None:
    """Without competition every member is parent about equally often."""
    history = [_member(i, float(i)) for i in range(4)]
    parents = [_parent(propose(history, seed, population=4, tournament=1)) for seed in range(400)]
    slack = 3 * (400 * 0.25 * 0.75) ** 0.5
    assert all(abs(parents.count(i) - 100) < slack for i in range(4))


def test_tournament_draws_with_replacement(propose: Any) -> None:
    """With P = S = 2 the better wins unless the worse is drawn twice: three times in four."""
    history = [_member(0, 0.0), _member(1, 1.0)]
    parents = [_parent(propose(history, seed, population=2, tournament=2)) for seed in range(400)]
    assert abs(parents.count(1) - 300) < 3 * (400 * 0.75 * 0.25) ** 0.5


def test_several_objectives_are_ranked_by_dominance(propose: Any) -> None:
    """A design that another beats in both objectives is no parent where both compete."""
    history = [_member(1, 0.9, 10.0), _member(2, 0.8, 20.0), _member(3, 0.5, 5.0)]
    for seed in range(20):
        parent = _parent(propose(history, seed, ["maximize", "minimize"], population=3, tournament=100))
        assert parent in (1, 3)


def test_failed_trials_do_not_join(plugins: Plugins) -> None:
    """Only complete trials are members: a failed one makes nobody die."""
    sampler = plugins.load("searcher", "evolution")(population=2, tournament=50).sampler(0, ["maximize"])
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.add_trials([_member(9, 100.0), _member(1, 1.0)])
    for _ in range(5):
        study.add_trial(create_trial(state=optuna.trial.TrialState.FAIL))
    trial = study.ask(SPACE)
    assert _parent(trial.params) == 9


def _optimize(plugins: Plugins, name: str, seed: int, *lengths: int) -> list[FrozenTrial]:
    """Run a study with a fresh sampler for each part, as after a restart."""
    target = np.random.default_rng(seed + 1000).integers(0, 10, 8)

    def objective(trial: optuna.Trial) -> float:
        return -float(sum(abs(trial.suggest_int(f"x{i}", 0, 9) - target[i]) for i in range(8)))

    options = {"population": 10, "tournament": 5} if name == "evolution" else {}
    study = optuna.create_study(direction="maximize")
    for length in lengths:
        study.sampler = plugins.load("searcher", name)(**options).sampler(seed, ["maximize"])
        study.optimize(objective, n_trials=length)
    return study.trials


def test_seed_decides(plugins: Plugins) -> None:
    """Equal seeds make the same search, another seed another."""
    first, again = ([t.params for t in _optimize(plugins, "evolution", 0, 30)] for _ in range(2))
    assert first == again
    assert first != [t.params for t in _optimize(plugins, "evolution", 1, 30)]


def test_resumed_equals_uninterrupted(plugins: Plugins) -> None:
    """A search cut off while it fills the population, and again later, goes on as if it had not been."""
    whole, parts = _optimize(plugins, "evolution", 0, 30), _optimize(plugins, "evolution", 0, 5, 14, 11)
    assert [t.params for t in whole] == [t.params for t in parts]


def test_first_trials_are_those_of_random_search(plugins: Plugins) -> None:
    """The first P designs are the ones that random search draws from the same seed."""
    random, evolution = (_optimize(plugins, name, 0, 11) for name in ("random", "evolution"))
    assert [t.params for t in random[:10]] == [t.params for t in evolution[:10]]
    assert random[10].params != evolution[10].params


def test_beats_random_search(plugins: Plugins) -> None:
    """On a smooth landscape of 10⁸ designs the best of 100 trials is better than random search's on ten of
    twelve seeds or more (sign test, p < 0.02), and better by far on average.
    """
    gains = []
    for seed in range(12):
        best = {
            name: max(t.values[0] for t in _optimize(plugins, name, seed, 100))
            for name in ("random", "evolution")
        }
        gains.append(best["evolution"] - best["random"])
    assert sum(gain > 0 for gain in gains) >= 10, gains
    assert mean(gains) > 4, gains


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 1}, r"population: 'population' must be >= 2: 1"),
        ({"tournament": 0}, r"tournament: 'tournament' must be >= 1: 0"),
    ],
)
def test_wrong_options_are_refused(plugins: Plugins, options: dict[str, Any], message: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=message):
        build(plugins.load("searcher", "evolution"), options, "test")
