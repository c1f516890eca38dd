"""MAML with policy gradients: the inner step and the outer objective are REINFORCE.

    L(theta) = - E[log pi_theta(a) * A]                                                          (equation 5)
    theta' = theta - alpha * grad L_before(theta),   theta <- theta - beta * grad_theta L_after(theta')

L_before is of rollouts of pi_theta, L_after of rollouts of pi_theta'. Its gradient through the inner step
does not credit actions before adaptation for what follows from them after it, as that of `promp` does.

Reference:
    Finn, Abbeel & Levine, Model-agnostic meta-learning for fast adaptation of deep networks, 2017.
    arXiv:1703.03400 (section 3.2, algorithm 3)
Differs:
    The outer optimizer is the stage's, by default Adam, where the paper has trust-region steps (TRPO).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import field, frozen
from attrs.validators import gt
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


@frozen
class PolicyMAML(MetaLearner):
    """Model-agnostic meta-learning of policies.

    Args:
        inner_rate: Learning rate of the adaptation (alpha), above 0.
    """

    inner_rate: float = field(default=0.1, validator=gt(0.0))

    forms: ClassVar[frozenset[str]] = frozenset({"environment"})
    keeps_head: ClassVar[bool] = True  # its actions are those of all tasks
    exact_gradient: ClassVar[Mapping[str, Any]] = {}

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        seen = Experience.of(labels)
        return -seen.mean(seen.log_likelihood(outputs) * seen.advantages)

    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return self.support_loss(outputs, labels)

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, theta = episodes.support, FastWeights(parameters, is_shared=True)
        step = engine.step(theta, support)
        adapted = theta.moved(step.gradients, self.inner_rate)
        outcome = engine.judge(adapted, support, episodes.query(adapted.tensors))
        v = step.pull_back(outcome.gradients, self.inner_rate)
        return MetaGradient({n: t.mean(0) for n, t in v.items()}, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        theta = FastWeights(parameters, is_shared=True)
        return [theta, theta.moved(engine.step(theta, support).gradients, self.inner_rate)]


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"maml-pg": PolicyMAML}
