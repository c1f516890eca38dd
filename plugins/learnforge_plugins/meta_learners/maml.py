"""MAML: find initial weights from which a few gradient steps on a few examples lead to a good classifier.

    theta_0 = theta,   theta_{k+1} = theta_k - alpha * grad L_support(theta_k)     (inner loop, equation 1)
    theta <- theta - beta * grad_theta sum over tasks L_query(theta_K)             (outer loop, algorithm 2)

The outer gradient goes through the inner steps: with v_K = grad L_query(theta_K) and H_k the Hessian of the
support loss at theta_k, v_k = v_{k+1} - alpha * H_k v_{k+1}, and v_0 is the meta-gradient. `first_order`
leaves the Hessians out (section 5.2).

MAML++ learns a rate alpha_{k,l} for each step k and tensor l of parameters, dL/dalpha_{k,l} = -
v_{k+1,l} · grad_l L_support(theta_k), and its outer loss is sum over steps of w_k L_query(theta_k) at
first (`multi_step`).

The authors' code sums the cross-entropy of n ways over a batch and divides it by the shots, so their inner
rate is n times smaller for the same step: their 0.4 on Omniglot is 2.0 here, their 0.01 on miniImageNet 0.05.

Reference:
    Finn, Abbeel & Levine, Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    arXiv:1703.03400
    Antoniou, Edwards & Storkey, How to train your MAML, 2019. arXiv:1810.09502 (rates, multi-step loss)
Differs:
    The weights of the steps before the last fall to zero linearly, those of MAML++'s code to 0.03 / K.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, le, optional
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

_RATE = "inner_rate:"


@frozen
class MAML(MetaLearner):
    """Model-agnostic meta-learning.

    Args:
        inner_rate: Learning rate of the inner steps (alpha), above 0; where rates start, if they are learned.
        inner_steps: Gradient steps on the support set in meta-training (K), from 1.
        adaptation_steps: Steps when adapting to new classes, from 0; `inner_steps` by default. Steps beyond
            those of meta-training have the last one's learned rates.
        first_order: Leave the second derivatives out (FOMAML).
        learned_rates: Learn the rate of each step and tensor of parameters (MAML++).
        multi_step: Share of the meta-training, in [0, 1], in which steps before the last count in the outer
            loss too, less and less (MAML++); 0 for never.
    """

    inner_rate: float = field(default=0.4, validator=gt(0.0))
    inner_steps: int = field(default=1, validator=ge(1))
    adaptation_steps: int | None = field(default=None, validator=optional(ge(0)))
    first_order: bool = False
    learned_rates: bool = False
    multi_step: float = field(default=0.0, validator=[ge(0.0), le(1.0)])

    exact_gradient: ClassVar[Mapping[str, Any]] = {
        "first_order": False,
        "adaptation_steps": None,
        "multi_step": 0.0,
    }

    def extra_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        if not self.learned_rates:
            return {}
        return {
            _RATE + name: t.new_full((self.inner_steps,), self.inner_rate) for name, t in parameters.items()
        }

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, weights = episodes.support, self._weights(engine.progress)
        theta = _shared(engine, parameters)
        steps, outcomes = [], {}
        for k in range(self.inner_steps):
            steps.append(engine.step(theta, support))
            theta = theta.moved(steps[k].gradients, self._rates(engine, parameters, k))
            if weights[k]:
                outcomes[k] = engine.judge(theta, support, episodes.query(theta.tensors))
        last = outcomes[self.inner_steps - 1]
        v = {name: torch.zeros_like(t) for name, t in last.gradients.items()}
        slopes: list[dict[str, Tensor]] = []
        for k in reversed(range(self.inner_steps)):
            if k in outcomes:
                v = {name: t + weights[k] * outcomes[k].gradients[name] for name, t in v.items()}
            if self.learned_rates:
                slopes.insert(0, {name: _slope(v[name], g) for name, g in steps[k].gradients.items()})
            if not self.first_order:
                v = steps[k].pull_back(v, self._rates(engine, parameters, k))
        found = dict(v)
        if self.learned_rates:
            found |= {_RATE + name: torch.stack([s[name] for s in slopes], 1) for name in engine.names}
        return MetaGradient({name: t.mean(0) for name, t in found.items()}, last.losses, last.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        trajectory = [_shared(engine, parameters)]
        steps = self.inner_steps if self.adaptation_steps is None else self.adaptation_steps
        for k in range(steps):
            gradients = engine.step(trajectory[-1], support).gradients
            rates = self._rates(engine, parameters, min(k, self.inner_steps - 1))
            trajectory.append(trajectory[-1].moved(gradients, rates))
        return trajectory

    def _rates(self, engine: Engine, parameters: Parameters, step: int) -> float | Parameters:
        """Return the rates of a step: alpha, or one for each tensor of parameters."""
        if not self.learned_rates:
            return self.inner_rate
        return {name: parameters[_RATE + name][step] for name in engine.names}

    def _weights(self, progress: float) -> list[float]:
        """Return w_1 … w_K, what the query loss after each step counts in the outer loss; they sum to 1."""
        early = max(0.0, 1 - progress / self.multi_step) / self.inner_steps if self.multi_step else 0.0
        return [early] * (self.inner_steps - 1) + [1 - early * (self.inner_steps - 1)]


def _slope(after: Tensor, gradient: Tensor) -> Tensor:
    """Return dL/dalpha of a step, [task], from the gradient after it and the one that it followed."""
    return -(after * gradient).reshape(len(after), -1).sum(1)


def _shared(engine: Engine, parameters: Parameters) -> FastWeights:
    """Return the network's part of the meta-parameters, which all tasks start from."""
    return FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"maml": MAML}
