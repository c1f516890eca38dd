"""The predictor: a Gaussian process by hand, targets by rank, what it proposes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial
from threadpoolctl import threadpool_info, threadpool_limits

from learnforge import Plugins, RecipeError
from learnforge.options.structure import build
from learnforge_kit import SpaceView
from learnforge_plugins.searchers import predictor as module
from learnforge_testing.landscapes import Letters

SPACE = Letters((4, 4, 4))
LETTERS = CategoricalDistribution("abcd")


def trial(word: str, *values: float) -> FrozenTrial:
    params = {f"place{i}": letter for i, letter in enumerate(word)}
    return create_trial(params=params, distributions=dict.fromkeys(params, LETTERS), values=list(values))


def propose(
    history: list[FrozenTrial], seed: int = 0, directions: Any = ("maximize",), **options: Any
) -> str:
    searcher = module.Predictor(**{"initial": 2, **options})
    sampler: Any = searcher.sampler(seed, directions, SpaceView(SPACE))
    found = sampler.propose(history, np.random.default_rng(seed), list(directions))
    return "".join(found.values())


def test_a_process_by_hand() -> None:
    """Two points at distance l with noise 0: K = [[1, e], [e, 1]], e = exp(-1); mean and variance between
    them.
    """
    e, half = math.exp(-1.0), math.exp(-0.5)
    values, vectors = np.linalg.eigh(np.array([[1.0, e], [e, 1.0]]))
    targets = np.array([1.0, 0.0])
    process = module._Process(0.0, 2.0, 1.0, values, vectors, vectors.T @ targets)
    known, between = np.array([[0.0], [2.0]]), np.array([[1.0]])
    mean, deviation = process.foretell(known, between)
    inverse = np.linalg.inv(np.array([[1.0, e], [e, 1.0]]))
    cross = np.array([half, half])
    assert mean[0] == pytest.approx(float(cross @ inverse @ targets))
    assert deviation[0] ** 2 == pytest.approx(float(1.0 - cross @ inverse @ cross))
    mean, deviation = process.foretell(known, known)
    assert mean == pytest.approx(targets)
    assert deviation == pytest.approx(np.zeros(2), abs=1e-4)


def test_the_likelihood_is_that_of_the_normal_law() -> None:
    """At its best amplitude, log N(y; 0, a (K + s I)) but for constants, whatever l and s were taken."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(12, 3)), rng.normal(size=12)
    fit = module._fit(features, targets)
    distances = np.sqrt(((features[:, None] - features[None]) ** 2).sum(2))
    likelihoods = []
    for scale in module.SCALES:
        for noise in module.NOISES:
            covariance = np.exp(-distances / scale) + noise * np.eye(12)
            amplitude = targets @ np.linalg.solve(covariance, targets) / 12
            sign, logdet = np.linalg.slogdet(amplitude * covariance)
            assert sign == 1
            likelihoods.append(
                -0.5 * (logdet + targets @ np.linalg.solve(amplitude * covariance, targets)) + 6
            )
    assert fit.likelihood == pytest.approx(max(likelihoods))


def test_the_amplitude_scales_the_deviation() -> None:
    """Targets twice as large foretell means and deviations twice as large."""
    rng = np.random.default_rng(1)
    features, targets, wanted = rng.normal(size=(9, 2)), rng.normal(size=9), rng.normal(size=(4, 2))
    one = module._fit(features, targets).foretell(features, wanted)
    two = module._fit(features, 2 * targets).foretell(features, wanted)
    assert two[0] == pytest.approx(2 * one[0])
    assert two[1] == pytest.approx(2 * one[1])


def test_equal_targets_are_foretold() -> None:
    """Where all trials came out the same, the process is flat and finite."""
    mean, deviation = module._fit(np.eye(4), np.zeros(4)).foretell(np.eye(4), np.ones((2, 4)))
    assert mean == pytest.approx(np.zeros(2))
    assert np.isfinite(deviation).all()


def test_quantiles_by_hand() -> None:
    """Of four the ranks 1 to 4 are the quantiles 1/8, 3/8, 5/8, 7/8; equal values share their mean."""
    quantiles = module._quantiles(np.array([3.0, -100.0, 7.0, 5.0]))
    expected = [-0.3186, -1.1503, 1.1503, 0.3186]
    assert quantiles == pytest.approx(expected, abs=1e-4)
    assert module._quantiles(np.array([1.0, 1.0])) == pytest.approx([0.0, 0.0])


def test_targets_turn_with_the_direction() -> None:
    """What is minimised is worth most where it is least; several objectives are weighted anew each time."""
    trials = [trial("aaa", 1.0), trial("bbb", 2.0)]
    rng = np.random.default_rng(0)
    up, down = (module._targets(trials, [d], rng) for d in ("maximize", "minimize"))
    assert up == pytest.approx(-down)
    several = [trial("aaa", 1.0, 1.0), trial("bbb", 2.0, 2.0), trial("ccc", 0.0, 3.0)]
    found = module._targets(several, ["maximize", "minimize"], rng)
    assert found.argmin() == 2  # worse than both in both
    with_others = {tuple(module._targets(several, ["maximize", "minimize"], rng)) for _ in range(20)}
    assert len(with_others) > 1


def test_first_designs_are_random() -> None:
    """Until `initial` distinct designs are known nothing is proposed; repetitions do not count."""
    assert propose([trial("aaa", 1.0)] * 5) == ""
    assert propose([trial("aaa", 1.0), trial("abc", 0.0)]) != ""


def test_proposals_are_new_and_good() -> None:
    """Where each letter a is worth one, most proposals after 30 trials share two letters with the best, and
    none is known.
    """
    rng = np.random.default_rng(0)
    words = {"".join(rng.choice(list("abcd"), 3)) for _ in range(30)} - {"aaa"}
    history = [trial(word, float(word.count("a"))) for word in sorted(words)]
    found = [propose(history, seed) for seed in range(10)]
    assert not set(found) & words
    assert found.count("aaa") >= 3
    assert np.mean([word.count("a") for word in found]) > 1.5


def test_limits_are_kept() -> None:
    """Candidates that the view does not allow are passed over."""
    searcher = module.Predictor(initial=2)
    view = SpaceView(SPACE, allows=lambda design: design["place0"] == "d")
    sampler: Any = searcher.sampler(0, ["maximize"], view)
    history = [trial("abc", 1.0), trial("aab", 0.5), trial("dcb", 0.1)]
    for seed in range(5):
        assert sampler.propose(history, np.random.default_rng(seed), ["maximize"])["place0"] == "d"


def test_what_is_asked_is_not_proposed_again() -> None:
    """Earlier members of a batch are left out."""
    history = [trial("aab", 2.0), trial("bcd", 0.0), trial("aba", 2.0), trial("baa", 2.0)]
    sampler: Any = module.Predictor(initial=2).sampler(0, ["maximize"], SpaceView(SPACE))
    sampler.pending = [trial("aaa", 0.0)]
    found = [
        "".join(sampler.propose(history, np.random.default_rng(s), ["maximize"]).values()) for s in range(20)
    ]
    assert "aaa" not in found


def test_scores_help_where_they_tell(plugins: Plugins) -> None:
    """With a score that orders designs as they are worth, proposals are better than without."""

    def worth(design: Any) -> float:
        return float(sum("abcd".index(letter) * 4**i for i, letter in enumerate(design.values())))

    rng = np.random.default_rng(0)
    words = sorted({"".join(rng.choice(list("abcd"), 3)) for _ in range(8)})
    history = [trial(word, worth({str(i): c for i, c in enumerate(word)})) for word in words]

    def mean(scores: tuple[str, ...]) -> float:
        searcher = module.Predictor(initial=2, scores=scores)
        sampler: Any = searcher.sampler(0, ["maximize"], SpaceView(SPACE, {"oracle": worth}))
        found = [sampler.propose(history, np.random.default_rng(s), ["maximize"]) for s in range(12)]
        return float(np.mean([worth(choices) for choices in found]))

    assert mean(("oracle",)) > mean(()) + 2


def test_scores_must_be_computed() -> None:
    """A score that the stage does not compute is an error that says where to name it."""
    with pytest.raises(ValueError, match="the search must compute naswot, it computes none; name them in"):
        module.Predictor(scores=("naswot",)).sampler(0, ["maximize"], SpaceView(SPACE))


def test_long_histories_are_thinned() -> None:
    """Of more trials than `MOST`, the best half stay, and of the others the latest, in their order."""
    evaluated: Any = [(str(i), float(-i)) for i in range(1000)]
    kept = [int(name) for name, _ in module._thinned(evaluated)]
    assert kept == [*range(200), *range(800, 1000)]
    assert module._thinned(evaluated[:300]) == evaluated[:300]


def test_wrong_options_are_refused(plugins: Plugins) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match="'initial' must be >= 2: 1"):
        build(plugins.load("searcher", "predictor"), {"initial": 1}, "test")


def test_matrices_are_decomposed_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever numpy's linear algebra is set to, which it finds unchanged afterwards."""
    eigh, seen = np.linalg.eigh, []

    def watched(matrix: Any) -> Any:
        seen.append(threads_of_blas())
        return eigh(matrix)

    monkeypatch.setattr(np.linalg, "eigh", watched)
    with threadpool_limits(2, user_api="blas"):
        before = threads_of_blas()
        propose([trial("aaa", 0.1), trial("abc", 0.4), trial("dda", 0.2)])
        assert threads_of_blas() == before
    assert before == {2}
    assert seen
    assert all(threads == {1} for threads in seen)


def threads_of_blas() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
