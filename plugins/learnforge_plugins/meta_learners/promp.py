"""ProMP: a policy that one policy-gradient step on a few rollouts adapts to a new task.

    theta' = theta + alpha * grad J_LR(theta),     J_LR = E[pi_theta(a) / pi_old(a) * A]        (equation 9)
    J_clip(theta') = E[min(r A, clip(r, 1 - eps, 1 + eps) A)],   r = pi_theta'(a) / pi_old'(a)  (equation 10)
    J(theta) = J_clip(theta') - eta * KL(pi_old || pi_theta)                                    (equation 12)

Rollouts before adaptation are those of pi_old with the parameters that a batch of episodes begins with,
those after it of pi_old', which is pi_old adapted. The objective of the inner step is the ratio of
likelihoods, whose second derivatives credit the actions before adaptation for the rewards after it with
little variance (section 5); those of the log-likelihood, as in `maml-pg`, leave that out. Since the outer
objective is clipped, several outer steps may be taken on the same rollouts: `outer_steps = 5` in the stage,
as the authors have it.

Reference:
    Rothfuss, Lee, Clavera, Asfour & Abbeel, ProMP: proximal meta-policy search, 2019. arXiv:1810.06784
Differs:
    One step of adaptation, as in the paper's experiments; the algorithm allows several.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, lt
from torch import Tensor

from learnforge import (
    Engine,
    Episodes,
    FastWeights,
    Labelled,
    MetaGradient,
    MetaLearner,
    Parameters,
    hookimpl,
)
from learnforge_kit import Experience

_RATE = "inner_rate:"


@frozen
class ProMP(MetaLearner):
    """Proximal meta-policy search.

    Args:
        inner_rate: Learning rate of the adaptation (alpha), above 0.
        clip: How far likelihood ratios may be from 1 to count in the outer objective (epsilon), in (0, 1).
        divergence: Weight of the divergence from the policy that the rollouts are of (eta), from 0.
        learned_rates: Learn the rate of each tensor of parameters, from `inner_rate` on.
    """

    inner_rate: float = field(default=0.1, validator=gt(0.0))
    clip: float = field(default=0.3, validator=[gt(0.0), lt(1.0)])
    divergence: float = field(default=5e-4, validator=ge(0.0))
    learned_rates: bool = False

    forms: ClassVar[frozenset[str]] = frozenset({"environment"})
    keeps_head: ClassVar[bool] = True  # its actions are those of all tasks
    reuses_rollouts: ClassVar[bool] = True
    exact_gradient: ClassVar[Mapping[str, Any]] = {"divergence": 0.0}

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        seen = Experience.of(labels)
        return -seen.mean(seen.log_ratio(outputs).exp() * seen.advantages)

    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        seen = Experience.of(labels)
        ratio = seen.log_ratio(outputs).exp()
        clipped = ratio.clamp(1 - self.clip, 1 + self.clip)
        return -seen.mean(torch.minimum(ratio * seen.advantages, clipped * seen.advantages))

    def extra_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        if not self.learned_rates:
            return {}
        return {_RATE + name: t.new_full((), self.inner_rate) for name, t in parameters.items()}

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, rates = episodes.support, self._rates(engine, parameters)
        theta = _shared(engine, parameters)
        step = engine.step(theta, support)
        adapted = theta.moved(step.gradients, rates)
        outcome = engine.judge(adapted, support, episodes.query(adapted.tensors))
        found = step.pull_back(outcome.gradients, rates)
        if self.divergence:
            strayed = engine.judge(theta, support, support, loss=_divergence).gradients
            found = {name: t + self.divergence * strayed[name] for name, t in found.items()}
        if self.learned_rates:
            found |= {_RATE + n: _slope(outcome.gradients[n], step.gradients[n]) for n in engine.names}
        return MetaGradient({n: t.mean(0) for n, t in found.items()}, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        theta = _shared(engine, parameters)
        gradients = engine.step(theta, support).gradients
        return [theta, theta.moved(gradients, self._rates(engine, parameters))]

    def _rates(self, engine: Engine, parameters: Parameters) -> float | Parameters:
        """Return alpha, or one for each tensor of parameters."""
        if not self.learned_rates:
            return self.inner_rate
        return {name: parameters[_RATE + name] for name in engine.names}


def _shared(engine: Engine, parameters: Parameters) -> FastWeights:
    """Return the network's part of the meta-parameters, which all tasks start from."""
    return FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)


def _slope(after: Tensor, gradient: Tensor) -> Tensor:
    """Return dL/dalpha of the step, [task], from the gradient after it and the one that it followed."""
    return -(after * gradient).reshape(len(after), -1).sum(1)


def _divergence(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return KL(pi_old || pi), averaged over the samples."""
    seen = Experience.of(labels)
    return seen.mean(seen.divergence(outputs))


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"promp": ProMP}
