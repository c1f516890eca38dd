"""ANIL: only the head adapts; the body is learned once for all tasks.

    theta_{k+1} = theta_k - alpha * grad_head L_support(theta_k)                            (inner loop)
    theta <- theta - beta * grad_theta sum over tasks L_query(theta_K)          (outer loop, as in MAML)

The inner loop of MAML hardly changes the body's features, and leaving it out changes the accuracy as little
(sections 3 and 4). Body and head are meta-learned through the steps of the head.

Reference:
    Raghu, Raghu, Bengio & Vinyals, Rapid learning or feature reuse? Towards understanding the effectiveness
    of MAML, 2020. arXiv:1909.09157
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
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
class ANIL(MetaLearner):
    """Almost no inner loop.

    Args:
        inner_rate: Learning rate of the head's steps (alpha), above 0.
        inner_steps: Gradient steps on the support set in meta-training (K), from 1.
        adaptation_steps: Steps when adapting to new classes, from 0; `inner_steps` by default.
    """

    inner_rate: float = field(default=0.4, validator=gt(0.0))
    inner_steps: int = field(default=1, validator=ge(1))
    adaptation_steps: int | None = field(default=None, validator=optional(ge(0)))

    adapts_head_alone: ClassVar[bool] = True
    exact_gradient: ClassVar[Mapping[str, Any]] = {"adaptation_steps": None}

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, head = episodes.support, _head(engine, parameters, episodes.support)
        theta = FastWeights(parameters, is_shared=True)
        steps = []
        for _ in range(self.inner_steps):
            steps.append(engine.step(theta, support, head))
            theta = theta.moved(steps[-1].gradients, self.inner_rate)
        outcome = engine.judge(theta, support, episodes.query(theta.tensors))
        v = outcome.gradients
        for step in reversed(steps):
            v = step.pull_back(v, self.inner_rate)
        return MetaGradient({name: t.mean(0) for name, t in v.items()}, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        trajectory, head = [FastWeights(parameters, is_shared=True)], _head(engine, parameters, support)
        steps = self.inner_steps if self.adaptation_steps is None else self.adaptation_steps
        for _ in range(steps):
            gradients = engine.step(trajectory[-1], support, head).gradients
            trajectory.append(trajectory[-1].moved(gradients, self.inner_rate))
        return trajectory


def _head(engine: Engine, parameters: Parameters, support: Labelled) -> list[str]:
    """Return the names of the head's parameters, of the layer that gives the outputs."""
    with torch.no_grad():
        engine.embed(parameters, support.images[0, :2])  # refuses a layer that does not
    return [name for name in engine.names if name.rpartition(".")[0] == engine.head]


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"anil": ANIL}
