"""MAML: find initial weights from which a few gradient steps on a few examples lead to a good classifier.

    theta_0 = theta,   theta_{k+1} = theta_k - alpha * grad L_support(theta_k)     (inner loop, equation 1)
    theta <- theta - beta * grad_theta sum over tasks L_query(theta_K)             (outer loop, algorithm 2)

The outer gradient goes through the inner steps: with v_K = grad L_query(theta_K) and H_k the Hessian of the
support loss at theta_k, v_k = v_{k+1} - alpha * H_k v_{k+1}, and v_0 is the meta-gradient. `first_order`
leaves the Hessians out (section 5.2).

Reference:
    Finn, Abbeel & Levine, Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    arXiv:1703.03400
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import field, frozen
from attrs.validators import ge, gt, optional

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


@frozen
class MAML(MetaLearner):
    """Model-agnostic meta-learning.

    Args:
        inner_rate: Learning rate of the inner steps (alpha), above 0.
        inner_steps: Gradient steps on the support set in meta-training (K), from 1.
        adaptation_steps: Steps when adapting to new classes, from 0; `inner_steps` by default.
        first_order: Leave the second derivatives out (FOMAML).
    """

    inner_rate: float = field(default=0.4, validator=gt(0.0))
    inner_steps: int = field(default=1, validator=ge(1))
    adaptation_steps: int | None = field(default=None, validator=optional(ge(0)))
    first_order: bool = False

    exact_gradient: ClassVar[Mapping[str, Any]] = {"first_order": False, "adaptation_steps": None}

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support = episodes.support
        theta = FastWeights(parameters, is_shared=True)
        steps = []
        for _ in range(self.inner_steps):
            step = engine.step(theta, support)
            theta = theta.moved(step.gradients, self.inner_rate)
            steps.append(step)
        outcome = engine.judge(theta, support, episodes.query(theta.tensors))
        v = outcome.gradients
        if not self.first_order:
            for step in reversed(steps):
                v = step.pull_back(v, self.inner_rate)
        return MetaGradient({name: t.mean(0) for name, t in v.items()}, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        trajectory = [FastWeights(parameters, is_shared=True)]
        steps = self.inner_steps if self.adaptation_steps is None else self.adaptation_steps
        for _ in range(steps):
            gradients = engine.step(trajectory[-1], support).gradients
            trajectory.append(trajectory[-1].moved(gradients, self.inner_rate))
        return trajectory


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"maml": MAML}
