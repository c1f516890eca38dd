"""Prototypical networks: an image belongs to the class whose mean embedding is nearest.

    c_k = mean of f(x) over the support images of class k                              (equation 1)
    p(y = k | x) = softmax over k of - |f(x) - c_k|^2                                  (equation 2)

Since |f(x)|^2 is the same for all classes, this is a linear head with weights 2 c_k and biases - |c_k|^2
(section 2.4, equation 8). So adaptation computes a head, and an adapted network is an ordinary one. More ways
in meta-training than later, `train_ways`, make better embeddings (section 3).

Reference:
    Snell, Swersky & Zemel, Prototypical networks for few-shot learning, 2017. arXiv:1703.05175
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from attrs import frozen
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


@frozen
class ProtoNet(MetaLearner):
    """Prototypical networks, with squared Euclidean distances."""

    exact_gradient: ClassVar[Mapping[str, Any]] = {}
    computes_head: ClassVar[bool] = True
    forms: ClassVar[frozenset[str]] = frozenset({"classification"})

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, shared = episodes.support, FastWeights(parameters, is_shared=True)
        compute = partial(_with_prototypes, ways=support.ways)
        query = episodes.query(engine.solve(shared, support, compute).tensors)
        outcome = engine.judge(shared, support, query, compute)
        gradients = {name: t.mean(0) for name, t in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        shared = FastWeights(parameters, is_shared=True)
        return [shared, engine.solve(shared, support, partial(_with_prototypes, ways=support.ways))]


def _with_prototypes(
    engine: Engine, parameters: Parameters, support: Labelled, ways: int
) -> dict[str, Tensor]:
    """Return one task's parameters with the head that its prototypes make."""
    embedded = engine.embed(parameters, support.images)
    members = support.one_hot(ways)  # [image, way]
    prototypes = members.T @ embedded / members.sum(0)[:, None]  # [way, feature]
    head = {"weight": 2 * prototypes, "bias": -prototypes.square().sum(1)}
    return {**parameters, **{f"{engine.head}.{name}": t for name, t in head.items()}}


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"protonet": ProtoNet}
