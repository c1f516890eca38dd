"""Random search: Optuna's own suite, uniform draws, and resume."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import optuna
import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase

from learnforge import Plugins

optuna.logging.set_verbosity(optuna.logging.WARNING)


class TestAsOptunaSampler(BasicSamplerTestCase):
    """Optuna's suite for samplers."""

    @pytest.fixture
    def sampler(self, plugins: Plugins) -> Callable[[], optuna.samplers.BaseSampler]:
        """Make the sampler."""
        return lambda: plugins.load("searcher", "random")().sampler(0, ["maximize"])


def _objective(trial: optuna.Trial) -> float:
    x = trial.suggest_int("x", 0, 3)
    y = trial.suggest_categorical("y", ["a", "b"])
    return x + (trial.suggest_float("z", 0, 1) if y == "a" else 0.0)


def _run(plugins: Plugins, seed: int, *lengths: int) -> list[dict[str, object]]:
    """Run a study with a fresh sampler for each part, as after a restart."""
    study = optuna.create_study(direction="maximize")
    for length in lengths:
        study.sampler = plugins.load("searcher", "random")().sampler(seed, ["maximize"])
        study.optimize(_objective, n_trials=length)
    return [trial.params for trial in study.trials]


def test_draws_are_uniform(plugins: Plugins) -> None:
    """Every value comes up with equal frequency, within three standard deviations."""
    trials = _run(plugins, 0, 400)
    for name, values in (("x", range(4)), ("y", "ab")):
        share = 1 / len(values)
        slack = 3 * (400 * share * (1 - share)) ** 0.5
        counts = Counter(trial[name] for trial in trials)
        assert all(abs(counts[value] - 400 * share) < slack for value in values), counts


def test_choices_are_independent(plugins: Plugins) -> None:
    """Two choices of a trial have generators of their own: all pairs come up."""
    assert {(trial["x"], trial["y"]) for trial in _run(plugins, 0, 100)} == {
        (x, y) for x in range(4) for y in "ab"
    }


def test_seed_decides(plugins: Plugins) -> None:
    """Equal seeds draw the same trials, other seeds others."""
    assert _run(plugins, 1, 20) == _run(plugins, 1, 20)
    assert _run(plugins, 1, 20) != _run(plugins, 2, 20)


def test_resumed_equals_uninterrupted(plugins: Plugins) -> None:
    """A search cut off and continued with a fresh sampler draws the same trials."""
    assert _run(plugins, 1, 7, 1, 12) == _run(plugins, 1, 20)
