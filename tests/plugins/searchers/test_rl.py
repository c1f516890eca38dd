"""Reinforcement learning: the policy's probabilities, its gradient by hand, rewards, choices of every
sort.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from learnforge import Plugins, RecipeError
from learnforge.options.structure import build
from learnforge_kit.search.sampler import generator
from learnforge_plugins.searchers import rl as module

optuna.logging.set_verbosity(optuna.logging.WARNING)
OP = CategoricalDistribution(["a", "b", "c"])


def trial(number: int, value: float | None, **choices: str) -> FrozenTrial:
    state = TrialState.COMPLETE if value is not None else TrialState.PRUNED
    offered: dict[str, BaseDistribution] = dict.fromkeys(choices, OP)
    made = create_trial(params=choices, distributions=offered, value=value, state=state)
    made.number = number
    return made


def probabilities(learner: Any, *prefix: tuple[str, str]) -> list[float]:
    walk = module._Walk(learner.policy)
    with torch.no_grad():
        for name, value in prefix:
            walk.take(name, OP, value)
        return [float(p) for p in walk.look("next", OP).exp()]


def learner(**options: Any) -> Any:
    return module._Learner(0, module.RL(**options), ["maximize"])


def test_the_policy_begins_uniform() -> None:
    """Before anything is known each value is as likely as the others, whatever came before."""
    assert probabilities(learner()) == pytest.approx([1 / 3] * 3)
    assert probabilities(learner(), ("first", "c")) == pytest.approx([1 / 3] * 3)


def test_weights_do_not_depend_on_the_order_of_names() -> None:
    """A policy that met the choices in another order has the same weights."""
    one, two = module._Policy(0, 8), module._Policy(0, 8)
    for policy, names in ((one, ("x", "y")), (two, ("y", "x"))):
        for name in names:
            policy.ensure(name, 3)
    assert all(torch.equal(tensor, two.state_dict()[name]) for name, tensor in one.state_dict().items())


def test_good_values_become_likelier_and_bad_ones_less() -> None:
    """A value that came with high rewards gains probability, one that came with low ones loses it."""
    own = learner(entropy=0.0)
    rng = np.random.default_rng(0)
    history = []
    for number in range(40):
        value = "abc"[int(rng.integers(3))]
        history.append(trial(number, {"a": 0.9, "b": 0.5, "c": 0.1}[value] + 0.01 * number, next=value))
        own.learn(history)
    found = probabilities(own)
    assert found[0] > 0.5
    assert found[2] < 0.2


def test_choices_depend_on_those_before() -> None:
    """Rewards for agreeing pairs teach the second choice to follow the first."""
    own = learner(entropy=0.0, learning_rate=0.1)
    rng, history = np.random.default_rng(0), []
    for number in range(150):
        first, second = "abc"[int(rng.integers(2))], "abc"[int(rng.integers(2))]
        history.append(trial(number, float(first == second) + 1e-3 * number, first=first, next=second))
        own.learn(history)
    assert probabilities(own, ("first", "a"))[0] > probabilities(own, ("first", "b"))[0] + 0.3


def test_the_gradient_by_hand() -> None:
    """REINFORCE on one choice: d loss / d bias_k = -(A (1[k = a] - pi_k)), with pi = 1/3 and A = R - 1/2."""
    own = learner(entropy=0.0)
    caught: list[list[float]] = []
    own._step = lambda loss: caught.append(
        torch.autograd.grad(loss, [own.policy.table["next 3 bias"]])[0].tolist()
    )
    own.learn([trial(0, 0.7, next="b")])  # the only trial: R = 1 - 0.5 / 1 = 1/2, so A = 0
    own.learn([trial(0, 0.7, next="b"), trial(1, 0.9, next="a")])  # the better of two: R = 3/4, b = 1/2
    assert caught[0] == pytest.approx([0.0] * 3)
    assert caught[1] == pytest.approx([-0.25 * 2 / 3, 0.25 / 3, 0.25 / 3])


def test_the_baseline_follows_rewards() -> None:
    """b moves to R by 1 - decay; R is 1 for the best of many and 0 for the worst."""
    own = learner(decay=0.5)
    assert own._baseline is None
    own._values = [[0.1], [0.5], [0.3], [0.9]]
    assert own._advantages(1) == pytest.approx([0.875 - 0.5])
    assert own._baseline == pytest.approx(0.6875)
    own._values.append([0.0])
    assert own._advantages(1) == pytest.approx([0.1 - 0.6875])


def test_a_refused_design_earns_the_least() -> None:
    """A pruned trial ranks below every other."""
    own = learner()
    own._values = [[0.1], None, [0.5], None]
    assert own._advantages(1) == pytest.approx([0.125 - 0.5])


def test_entropy_holds_the_policy_open() -> None:
    """With much entropy the policy stays near uniform where it would have settled."""
    found = []
    for entropy in (0.0, 3.0):
        own = learner(entropy=entropy)
        for number in range(30):
            own.learn([trial(i, float(i), next="a") for i in range(number + 1)])
        found.append(max(probabilities(own)))
    assert found[0] > 0.9
    assert found[1] < 0.6


def test_ppo_does_not_go_beyond_its_clip() -> None:
    """In a batch with one advantage, probabilities stop changing once the ratio has left 1 ± eps."""
    own = learner(algorithm="ppo", batch=2, epochs=50, entropy=0.0, clip=0.1, learning_rate=0.02)
    own.learn([trial(0, 0.0, next="a"), trial(1, 1.0, next="b")])
    ratio = probabilities(own)[1] * 3
    assert 1.05 < ratio < 1.35


def test_repetitions_teach_nothing(plugins: Plugins) -> None:
    """A study with a design told thrice has the policy of one where it was told once."""
    first = [
        trial(0, 0.2, next="a"),
        trial(1, 0.9, next="b"),
        trial(2, 0.9, next="b"),
        trial(3, 0.9, next="b"),
    ]
    samplers = []
    for history in (first, first[:2]):
        study = optuna.create_study(direction="maximize")
        study.add_trials(history)
        sampler: Any = plugins.load("searcher", "rl")().sampler(0, ["maximize"])
        sampler._catch_up(study)
        samplers.append(sampler)
    one, two = (sampler._learner.policy.state_dict() for sampler in samplers)
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_history_in_another_order_is_learnt_anew() -> None:
    """Where an earlier trial turns up later, as in parallel searches, the policy is that of the order by
    number.
    """
    trials = [trial(i, float(i % 3), next="abc"[i % 3]) for i in range(6)]
    own = learner()
    own.learn([trials[0], trials[2]])
    assert not own.fits(trials)
    fresh = learner()
    fresh.learn(trials)
    assert fresh.fits(trials)


@pytest.mark.parametrize(
    "distribution",
    [
        CategoricalDistribution([None, "x", 3]),
        IntDistribution(0, 4),
        IntDistribution(8, 64, step=8),
        IntDistribution(1, 1000, log=True),
        IntDistribution(5, 5),
        FloatDistribution(1e-4, 1.0, log=True),
        FloatDistribution(0.0, 0.5),
        FloatDistribution(0.0, 1.0, step=0.25),
        FloatDistribution(2.0, 2.0),
    ],
)
def test_values_and_parts_belong_together(distribution: BaseDistribution) -> None:
    """A value drawn from a part lies in it, and parts drawn uniformly give values as a uniform draw does."""
    parts, rng = module.count_parts(distribution), generator(0, "parts")
    for part in range(parts):
        for _ in range(5):
            value = module.value_in(distribution, part, rng)
            assert distribution._contains(distribution.to_internal_repr(value))
            assert module.part_of(distribution, value) == part


def test_parts_are_as_wide_as_they_are_likely() -> None:
    """Parts of a continuous range are equally wide, in the logarithm where it is logarithmic; few values are
    one each.
    """
    wide = FloatDistribution(1.0, 10.0**module.PARTS, log=True)
    assert [module.part_of(wide, 10.0**k * 1.01) for k in (0, 1, 23)] == [0, 1, 23]
    assert module.count_parts(IntDistribution(0, 4)) == 5
    assert module.count_parts(IntDistribution(0, 10_000)) == module.PARTS
    counts = Counter(module.part_of(IntDistribution(1, 1000, log=True), v) for v in range(1, 1001))
    assert counts[0] == 1
    assert counts[max(counts)] > 200


def test_wrong_options_are_refused(plugins: Plugins) -> None:
    """Options out of range are refused with what they may be."""
    with pytest.raises(RecipeError, match="algorithm") as caught:
        build(plugins.load("searcher", "rl"), {"algorithm": "a2c", "decay": 1.0, "clip": 2.0}, "test")
    assert len(caught.value.problems) == 3
