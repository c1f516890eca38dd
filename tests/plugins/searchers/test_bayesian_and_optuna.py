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


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.filterwarnings("ignore:.*group.* is an experimental feature")
def test_fresh_samplers_see_the_space_as_one_that_reads_every_trial(group: bool) -> None:
    """As more trials finish, also one that finishes late, whose choices then come first, and in another
    study.
    """

    def make(seed: int = 0) -> optuna.samplers.BaseSampler:
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=group)

    shared, seen = FreshSampler(0, make), []
    for offered in ("abc", "xyz"):
        study = optuna.create_study(sampler=shared)
        late = study.ask()
        for asked in (offered[0], offered[::2], offered[:2]):
            trial = study.ask() if asked != offered[:2] else late
            for name in asked:
                trial.suggest_float(name, 0, 1)
            study.tell(trial, 0.0)
            frozen = study.trials[-1]
            found = shared.infer_relative_search_space(study, frozen)
            assert list(found.items()) == list(make().infer_relative_search_space(study, frozen).items())
            seen.append("".join(found))
    assert seen == (["a", "ac", "abc", "x", "xz", "xyz"] if group else [*"aaaxxx"])


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
