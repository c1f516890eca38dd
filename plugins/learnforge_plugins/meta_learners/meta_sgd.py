"""Meta-SGD: MAML that also learns, for each single parameter, how fast and in which direction it adapts.

    theta' = theta - alpha o grad L_support(theta)                       (equation 2; o: elementwise)
    (theta, alpha) <- (theta, alpha) - beta * grad sum over tasks L_query(theta')       (algorithm 1)

For alpha the gradient of a step is dL/dalpha = - v o grad L_support(theta), with v the gradient after it.
Rates may become negative.

Reference:
    Li, Zhou, Chen & Li, Meta-SGD: learning to learn quickly for few-shot learning, 2017. arXiv:1707.09835
Differs:
    Rates start at one number; the paper draws them from [0.005, 0.1]. More than one step is possible, with
    the same rates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, optional
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

_RATE = "rate:"


@frozen
class MetaSGD(MetaLearner):
    """MAML with a learned rate for every parameter.

    Args:
        inner_rate: Where all rates (alpha) start, above 0.
        inner_steps: Gradient steps on the support set in meta-training, from 1.
        adaptation_steps: Steps when adapting to new classes, from 0; `inner_steps` by default.
    """

    inner_rate: float = field(default=0.1, validator=gt(0.0))
    inner_steps: int = field(default=1, validator=ge(1))
    adaptation_steps: int | None = field(default=None, validator=optional(ge(0)))

    exact_gradient: ClassVar[Mapping[str, Any]] = {"adaptation_steps": None}
    shaped_as_weights: ClassVar[tuple[str, ...]] = (_RATE,)

    def extra_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        return {_RATE + name: torch.full_like(t, self.inner_rate) for name, t in parameters.items()}

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, (theta, alpha) = episodes.support, _parts(engine, parameters)
        steps = []
        for _ in range(self.inner_steps):
            steps.append(engine.step(theta, support))
            theta = theta.moved(steps[-1].gradients, alpha)
        outcome = engine.judge(theta, support, episodes.query(theta.tensors))
        v = outcome.gradients
        slopes = {name: torch.zeros_like(t) for name, t in alpha.items()}
        for step in reversed(steps):
            slopes = {name: t - (v[name] * step.gradients[name]).mean(0) for name, t in slopes.items()}
            v = step.pull_back(v, alpha)
        gradients = {name: t.mean(0) for name, t in v.items()}
        gradients |= {_RATE + name: t for name, t in slopes.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        theta, alpha = _parts(engine, parameters)
        trajectory = [theta]
        steps = self.inner_steps if self.adaptation_steps is None else self.adaptation_steps
        for _ in range(steps):
            trajectory.append(trajectory[-1].moved(engine.step(trajectory[-1], support).gradients, alpha))
        return trajectory


def _parts(engine: Engine, parameters: Parameters) -> tuple[FastWeights, dict[str, Tensor]]:
    """Return theta, which all tasks start from, and alpha."""
    theta = FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)
    return theta, {name: parameters[_RATE + name] for name in engine.names}


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"meta-sgd": MetaSGD}
