"""Reinforcement learning: a recurrent policy makes a design's choices one after the other, rewarded by what
it is worth.

    pi(a_1 … a_T) = prod_t pi(a_t | a_1 … a_{t-1}),      an LSTM, one step a choice
    REINFORCE:  grad J = E[ (R - b) sum_t grad log pi(a_t | a_<t) ] + beta * grad entropy
                (Zoph & Le, section 3.2)
    PPO:        max E[ sum_t min(rho_t A, clip(rho_t, 1 - eps, 1 + eps) A) ],  rho_t = pi(a_t) / pi_old(a_t)
                (Schulman, equation 7; pi_old is the policy when an update begins)

The policy has a head for the name of each choice, made when that choice is first asked, so spaces may have
choices that only come up with others, and any number of them. A number is chosen as one of at most 24 parts
of its range, then uniformly within it. The reward R is the rank of a trial's worth among the trials so far,
in [0, 1], the baseline b a moving average of it. A design that comes up again teaches nothing, one that the
search refuses earns the least. The policy is a function of the study: it is trained anew on the trials in
their order, so a resumed search goes on with the very policy that it had.

Reference:
    Zoph & Le, Neural architecture search with reinforcement learning, 2017. arXiv:1611.01578
    Pham, Guan, Zoph, Le & Dean, Efficient neural architecture search via parameter sharing, 2018.
    arXiv:1802.03268
    Schulman, Wolski, Dhariwal, Radford & Klimov, Proximal policy optimization algorithms, 2017.
    arXiv:1707.06347
Differs:
    Rewards are ranks, which need no scale, and serve several objectives (by non-dominated rank and crowding).
Measured:
    NAS-Bench-201, 12,000 simulated seconds, 500 seeds: test accuracy 94.13 ± 0.27 %, validation regret 0.371
    ± 0.399 points (mean ± standard deviation). learnforge bench searchers rl --seeds 500 --final
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import optuna
import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt, in_, le, lt
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from torch import Tensor, nn

from learnforge import Searcher, View, hookimpl
from learnforge_kit import IndependentSampler, best_first, generator

PARTS = 24
"""Parts of a range that has more values than this."""


@frozen
class RL(Searcher):
    """Reinforcement learning with an autoregressive policy.

    Args:
        algorithm: `reinforce` or `ppo`.
        learning_rate: Adam's step size for the heads, above 0; the LSTM and the embeddings, which all
            choices share, take a twentieth of it.
        entropy: Weight of the policy's entropy (beta), summed over choices, from 0.
        decay: Decay of the baseline, in [0, 1).
        hidden: Units of the LSTM, from 1.
        batch: Trials in an update, from 1.
        clip: How far PPO lets the ratio go from 1 (eps), above 0.
        epochs: Passes over a batch with PPO, from 1.
    """

    repeat_rate: ClassVar[float] = 0.9

    algorithm: Literal["reinforce", "ppo"] = field(default="reinforce", validator=in_(("reinforce", "ppo")))
    learning_rate: float = field(default=0.2, validator=gt(0.0))
    entropy: float = field(default=0.1, validator=ge(0.0))
    decay: float = field(default=0.9, validator=[ge(0.0), lt(1.0)])
    hidden: int = field(default=32, validator=ge(1))
    batch: int = field(default=1, validator=ge(1))
    clip: float = field(default=0.2, validator=[gt(0.0), le(1.0)])
    epochs: int = field(default=4, validator=ge(1))

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return _PolicySampler(seed, self, directions, view)


class _PolicySampler(IndependentSampler):
    def __init__(self, seed: int, settings: RL, directions: Sequence[str], view: View | None):
        self.seed, self._settings, self._directions, self._view = seed, settings, directions, view
        self._keys: dict[int, str] = {}
        self._learner = _Learner(seed, settings, directions)
        self._walk: tuple[int, _Walk] | None = None

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self._walk is None or self._walk[0] != trial.number:
            self._catch_up(study)
            self._walk = (trial.number, _Walk(self._learner.policy))
        walk = self._walk[1]
        with torch.no_grad():
            for name in list(trial.params)[walk.steps :]:  # choices made before a kill, or put into the queue
                walk.take(name, trial.distributions[name], trial.params[name])
            rng = generator(self.seed, trial.number, param_name)
            probabilities = walk.look(param_name, param_distribution).exp().double().numpy()
            part = int(np.searchsorted(np.cumsum(probabilities), rng.random() * probabilities.sum()))
            return value_in(param_distribution, min(part, len(probabilities) - 1), rng)

    def _catch_up(self, study: optuna.Study) -> None:
        """Let the policy learn from what was told since; begin anew where that came in another order."""
        told = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        first = {self._key_of(trial): trial for trial in reversed(told)}
        distinct = [trial for trial in told if first[self._key_of(trial)] is trial]
        history = [
            trial for trial in distinct if trial.values is None or all(map(math.isfinite, trial.values))
        ]
        if not self._learner.fits(history):
            self._learner = _Learner(self.seed, self._settings, self._directions)
        self._learner.learn(history)

    def _key_of(self, trial: FrozenTrial) -> str:
        """Return what equal designs share."""
        if trial.number not in self._keys:
            rng = np.random.default_rng(0)  # a trial has all of its choices, so nothing is drawn
            key = self._view.of_trial(trial, rng).key if self._view is not None else repr(trial.params)
            self._keys[trial.number] = key
        return self._keys[trial.number]


class _Policy(nn.Module):
    """The LSTM, with an embedding for each value of each choice, and a head for each choice.

    Weights are drawn as a function of (seed, name), so their order of appearance does not matter; heads
    begin at 0, which is a uniform policy.
    """

    def __init__(self, seed: int, hidden: int):
        super().__init__()
        self.seed, self.hidden = seed, hidden
        self.table = nn.ParameterDict()
        bound = 1.0 / math.sqrt(hidden)
        self.inside = self._drawn("inside", (4 * hidden, hidden), bound)
        self.across = self._drawn("across", (4 * hidden, hidden), bound)
        self.bias = nn.Parameter(torch.zeros(4 * hidden))

    def ensure(self, name: str, parts: int) -> None:
        """Make what a choice needs; a choice with other values than before is another one."""
        key = _key(name, parts)
        if f"{key} head" not in self.table:
            self.table[f"{key} name"] = self._drawn(f"{key} name", (self.hidden,), 0.1)
            self.table[f"{key} values"] = self._drawn(f"{key} values", (parts, self.hidden), 0.1)
            self.table[f"{key} head"] = nn.Parameter(torch.zeros(parts, self.hidden))
            self.table[f"{key} bias"] = nn.Parameter(torch.zeros(parts))

    def _drawn(self, use: str, shape: tuple[int, ...], bound: float) -> nn.Parameter:
        values = generator(self.seed, "policy", use).uniform(-bound, bound, shape)
        return nn.Parameter(torch.from_numpy(values).float())


class _Walk:
    """One pass of the policy along the choices of a design."""

    def __init__(self, policy: _Policy):
        self.policy, self.steps = policy, 0
        self._hidden = self._cell = torch.zeros(policy.hidden)
        self._last = torch.zeros(policy.hidden)
        self._seen: tuple[str, Tensor] | None = None

    def look(self, name: str, distribution: BaseDistribution) -> Tensor:
        """Return the log-probabilities of a choice's parts: float [part]."""
        if self._seen is not None and self._seen[0] == name:
            return self._seen[1]
        policy, parts = self.policy, count_parts(distribution)
        policy.ensure(name, parts)
        key, table = _key(name, parts), policy.table
        gates = (
            policy.inside @ (self._last + table[f"{key} name"]) + policy.across @ self._hidden + policy.bias
        )
        let_in, keep, new, let_out = gates.chunk(4)
        self._cell = torch.sigmoid(keep + 1.0) * self._cell + torch.sigmoid(let_in) * torch.tanh(new)
        self._hidden = torch.sigmoid(let_out) * torch.tanh(self._cell)
        found = F.log_softmax(table[f"{key} head"] @ self._hidden + table[f"{key} bias"], 0)
        self._seen = (name, found)
        return found

    def take(self, name: str, distribution: BaseDistribution, value: Any) -> tuple[Tensor, Tensor]:
        """Go on with a value; return its part's log-probability, and the entropy of the choice."""
        found = self.look(name, distribution)
        part = part_of(distribution, value)
        self._last = self.policy.table[f"{_key(name, len(found))} values"][part]
        self._seen, self.steps = None, self.steps + 1
        return found[part], -(found.exp() * found).sum()


class _Learner:
    """The policy and its training, as a function of the trials that it was shown."""

    def __init__(self, seed: int, settings: RL, directions: Sequence[str]):
        self.settings, self.directions = settings, directions
        self.policy = _Policy(seed, settings.hidden)
        self._optimizer: torch.optim.Optimizer | None = None
        self._trained: set[str] = set()
        self._numbers: list[int] = []
        self._values: list[Sequence[float] | None] = []
        self._baseline: float | None = None

    def fits(self, history: Sequence[FrozenTrial]) -> bool:
        """Tell whether what was learnt from is a beginning of a history."""
        return [trial.number for trial in history[: len(self._numbers)]] == self._numbers

    def learn(self, history: Sequence[FrozenTrial]) -> None:
        """Learn from the full batches of a history that it does not know yet."""
        size = self.settings.batch
        while len(history) - len(self._numbers) >= size:
            batch = history[len(self._numbers) : len(self._numbers) + size]
            self._numbers += [trial.number for trial in batch]
            self._values += [trial.values for trial in batch]
            self._update(batch, self._advantages(size))

    def _advantages(self, size: int) -> list[float]:
        """Return R - b of the newest trials; R is 1 for the best of all so far and 0 for the worst."""
        count = len(self._values)
        valued = [i for i, values in enumerate(self._values) if values is not None]
        order = best_first([values for values in self._values if values is not None], self.directions)
        place = dict.fromkeys(range(count), count - 1) | {valued[i]: rank for rank, i in enumerate(order)}
        rewards = [1.0 - (place[i] + 0.5) / count for i in range(count - size, count)]
        advantages = []
        for reward in rewards:
            baseline = self._baseline if self._baseline is not None else 0.5
            advantages.append(reward - baseline)
            self._baseline = self.settings.decay * baseline + (1.0 - self.settings.decay) * reward
        return advantages

    def _update(self, trials: Sequence[FrozenTrial], advantages: Sequence[float]) -> None:
        settings = self.settings
        old: list[Tensor] = []
        for _ in range(settings.epochs if settings.algorithm == "ppo" else 1):
            walks = [self._replay(trial) for trial in trials]
            old = old or [found.detach() for found, _ in walks]
            worths = []
            for (found, _), before, gain in zip(walks, old, advantages, strict=True):
                if settings.algorithm == "ppo":
                    ratio = (found - before).exp()
                    bounded = ratio.clamp(1.0 - settings.clip, 1.0 + settings.clip)
                    worths.append(torch.minimum(ratio * gain, bounded * gain).sum())
                else:
                    worths.append(found.sum() * gain)
            entropy = torch.stack([entropy for _, entropy in walks]).mean()
            self._step(-(torch.stack(worths).mean() + settings.entropy * entropy))

    def _replay(self, trial: FrozenTrial) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each of a trial's choices, float [choice], and their
        entropy, summed.
        """
        walk = _Walk(self.policy)
        taken = [walk.take(name, trial.distributions[name], value) for name, value in trial.params.items()]
        if not taken:  # a space without choices
            return self.policy.bias[:1] * 0.0, self.policy.bias.sum() * 0.0
        return torch.stack([p for p, _ in taken]), torch.stack([e for _, e in taken]).sum()

    def _step(self, loss: Tensor) -> None:
        rate = self.settings.learning_rate
        new = {n: p for n, p in self.policy.named_parameters() if n not in self._trained}
        heads = [p for name, p in new.items() if name.endswith((" head", " bias"))]
        groups: list[dict[str, Any]] = [
            {"params": heads, "lr": rate},
            {
                "params": [p for name, p in new.items() if not name.endswith((" head", " bias"))],
                "lr": rate / 20,
            },
        ]
        if self._optimizer is None:
            self._optimizer = torch.optim.Adam(groups, foreach=True)
        else:
            for group in groups if new else ():
                self._optimizer.add_param_group(group)
        self._trained.update(new)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()


def _key(name: str, parts: int) -> str:
    return f"{name.replace('.', '/')} {parts}"


def count_parts(distribution: BaseDistribution) -> int:
    """Return among how many parts of a choice's range the policy chooses."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return 1 if distribution.single() else PARTS
    return int(_steps(distribution)[1].max()) + 1


def part_of(distribution: BaseDistribution, value: Any) -> int:
    """Return the part of a range that a value is in."""
    if isinstance(distribution, CategoricalDistribution):
        return int(distribution.to_internal_repr(value))
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        low, high = _ends(distribution)
        place = (math.log(value) if distribution.log else value) - low
        return min(PARTS - 1, max(0, int(place / (high - low) * PARTS))) if high > low else 0
    values, parts = _steps(distribution)
    return int(parts[int(np.abs(values - value).argmin())])


def value_in(distribution: BaseDistribution, part: int, rng: np.random.Generator) -> Any:
    """Draw a value from a part of a range, uniformly."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[part]
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        low, high = _ends(distribution)
        value = low + (high - low) * (part + rng.random()) / count_parts(distribution)
        value = math.exp(value) if distribution.log else value
        return float(min(max(value, distribution.low), distribution.high))
    values, parts = _steps(distribution)
    value = rng.choice(values[parts == part])
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


@functools.lru_cache(maxsize=256)
def _steps(distribution: BaseDistribution) -> tuple[Any, Any]:
    """Return the values of a range of steps, and the part that each is in; parts without a value are
    left out.
    """
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    step = distribution.step or 1
    values = distribution.low + step * np.arange(round((distribution.high - distribution.low) / step) + 1)
    values = np.minimum(values, distribution.high)  # 0.1 steps round to more than the end
    places = np.log(values) if distribution.log else values.astype(float)
    share = (places - places[0]) / max(float(places[-1] - places[0]), 1e-300)
    parts = np.minimum((share * min(PARTS, len(values))).astype(int), PARTS - 1)
    return values, np.unique(parts, return_inverse=True)[1]


def _ends(distribution: FloatDistribution) -> tuple[float, float]:
    """Return the ends of a range, in the logarithm where it is logarithmic."""
    low, high = distribution.low, distribution.high
    return (math.log(low), math.log(high)) if distribution.log else (low, high)


@hookimpl
def learnforge_searchers() -> dict[str, type[Searcher]]:
    return {"rl": RL}
