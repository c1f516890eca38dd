"""Optuna's samplers behind two searchers: which one, with which seed, resumed exactly or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from learnforge import Plugins, RecipeError
from learnforge.options.structure import build
from learnforge_kit import FreshSampler

optuna.logging.set_verbosity(optuna.logging.WARNING)


def search(sampler: optuna.samplers.BaseSampler, trials: int, study: Any = None) -> Any:
    study = study or optuna.create_study(direction="maximize")
    study.sampler = sampler

    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["a", "b", "c"])
        extra = trial.suggest_float("extra", 0, 1) if kind == "a" else 0.0
        return extra - abs(trial.suggest_int("x", 0, 20) - 7) / 20

    study.optimize(objective, n_trials=trials)
    return study


@pytest.mark.parametrize(
    ("name", "kind"),
    [("tpe", "TPESampler"), ("gp", "GPSampler"), ("nsga2", "NSGAIISampler"), ("nsga3", "NSGAIIISampler")],
)
def test_bayesian_makes_the_sampler_that_is_asked_for(name: str, kind: str, plugins: Plugins) -> None:
    """Each name makes Optuna's own class, anew for each trial."""
    sampler: Any = build(plugins.load("searcher", "bayesian"), {"sampler": name}, "test").sampler(
        0, ["maximize"]
    )
    assert isinstance(sampler, FreshSampler)
    assert type(sampler._make(3)).__name__ == kind


def test_tpe_models_all_choices_together(plugins: Plugins) -> None:
    """Multivariate, in groups, and with trials in flight as bad ones."""
    sampler: Any = plugins.load("searcher", "bayesian")(initial=4).sampler(0, ["maximize"])._make(0)
    assert (sampler._multivariate, sampler._group, sampler._constant_liar) == (True, True, True)
    assert sampler._n_startup_trials == 4


@pytest.mark.parametrize("options", [{"sampler": "tpe", "initial": 5}, {"sampler": "nsga2", "initial": 5}])
def test_a_resumed_search_goes_on(options: dict[str, Any], plugins: Plugins, tmp_path: Path) -> None:
    """With another sampler object after each part the choices are those of one."""
    searcher = build(plugins.load("searcher", "bayesian"), options, "test")
    whole = search(searcher.sampler(0, ["maximize"]), 20)
    parts = search(searcher.sampler(0, ["maximize"]), 7)
    parts = search(searcher.sampler(0, ["maximize"]), 13, parts)
    assert [t.params for t in parts.trials] == [t.params for t in whole.trials]
    other = search(searcher.sampler(1, ["maximize"]), 20)
    assert [t.params for t in other.trials] != [t.params for t in whole.trials]


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": "TPESampler", "arguments": {"multivariate": True, "group": True, "n_startup_trials": 5}},
        {"sampler": "TPESampler", "arguments": {"multivariate": True, "n_startup_trials": 5}},
        {"sampler": "NSGAIISampler", "arguments": {"population_size": 5}},
    ],
    ids=["groups", "intersection", "nsga2"],
)
@pytest.mark.filterwarnings("ignore:.*group.* is an experimental feature")
def test_what_was_seen_of_the_space_changes_no_choice(options: dict[str, Any], plugins: Plugins) -> None:
    """A search whose samplers share it makes the choices of one whose samplers read every trial, where
    trials finish late, fail and are pruned, and where the sampler goes on with another study.
    """
    searcher = build(plugins.load("searcher", "optuna"), options, "test")
    shared = searcher.sampler(3, ["maximize"])
    for _ in range(2):
        found, expected = [], []
        for found_in, make in (
            (found, lambda: shared),
            (expected, lambda: searcher.sampler(3, ["maximize"])),
        ):
            study = optuna.create_study(direction="maximize")
            late: list[optuna.Trial] = []
            for number in range(40):
                study.sampler = make()
                trial = study.ask()
                value = choose(trial)
                found_in.append(trial.params)
                if number % 7 == 3:
                    late.append(trial)
                    continue
                state = {4: optuna.trial.TrialState.FAIL, 5: optuna.trial.TrialState.PRUNED}.get(number % 9)
                study.tell(trial, None if state else value, state=state)
                if number % 11 == 10:
                    study.tell(late.pop(), 0.5)
        assert found == expected


def choose(trial: optuna.Trial) -> float:
    """Make choices some of which only come up after others."""
    kind = trial.suggest_categorical("kind", ["a", "b", "c"])
    extra = trial.suggest_float("extra", 0, 1) if kind != "a" else 0.0
    more = trial.suggest_int("more", 0, 5) if extra > 0.4 else 0
    return extra + more / 5 - abs(trial.suggest_int("x", 0, 20) - 7) / 20


def test_optuna_takes_any_sampler_by_name(plugins: Plugins) -> None:
    """A class of optuna.samplers, with its arguments; those whose state is elsewhere live on as one
    object.
    """
    make = plugins.load("searcher", "optuna")
    for name, is_fresh in (("RandomSampler", True), ("QMCSampler", False)):
        sampler = build(make, {"sampler": name}, "test").sampler(5, ["maximize"])
        assert isinstance(sampler, FreshSampler) is is_fresh
        assert len(search(sampler, 3).trials) == 3
    options = {"sampler": "TPESampler", "arguments": {"n_startup_trials": 3}, "exact": False}
    made: Any = build(make, options, "test").sampler(5, ["maximize"])
    assert made._n_startup_trials == 3


def test_optuna_takes_samplers_of_packages(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`package.module:Class` names a sampler of an installed package, as OptunaHub's are."""
    (tmp_path / "hub_package.py").write_text(
        "import optuna\n\nclass Mine(optuna.samplers.RandomSampler):\n    'A sampler.'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sampler: Any = build(plugins.load("searcher", "optuna"), {"sampler": "hub_package:Mine"}, "t").sampler(
        0, ["minimize"]
    )
    assert type(sampler).__name__ == "Mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("TPE", "optuna.samplers must have a sampler 'TPE'; optuna.samplers has BruteForceSampler"),
        ("nowhere_at_all:X", "nowhere_at_all must be an installed package"),
        ("json:JSONDecoder", "json must have a sampler 'JSONDecoder'"),
    ],
)
def test_what_is_no_sampler_is_said(name: str, words: str, plugins: Plugins) -> None:
    """Unknown names and packages are errors that say what there is."""
    with pytest.raises(ValueError, match=words):
        build(plugins.load("searcher", "optuna"), {"sampler": name}, "test").sampler(0, ["maximize"])


def test_bayesian_refuses_unknown_samplers(plugins: Plugins) -> None:
    """The option lists its values."""
    with pytest.raises(RecipeError, match="one of 'tpe', 'gp', 'nsga2', 'nsga3'"):
        build(plugins.load("searcher", "bayesian"), {"sampler": "cma"}, "test")
