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
from typing import Any, ClassVar

from attrs import frozen
from torch import Tensor

from learnforge import MetaLearner, Parameters, hookimpl
from learnforge_kit import HeadLearner


@frozen
class ProtoNet(HeadLearner):
    """Prototypical networks, with squared Euclidean distances."""

    exact_gradient: ClassVar[Mapping[str, Any]] = {}

    def head(self, features: Tensor, members: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        prototypes = members.T @ features / members.sum(0)[:, None]  # [way, feature]
        return 2 * prototypes, -prototypes.square().sum(1)


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"protonet": ProtoNet}
