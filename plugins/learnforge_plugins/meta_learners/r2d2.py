"""R2-D2: the head of a task is the solution of a ridge regression on its support set.

    W = X^T (X X^T + lambda I)^-1 Y        X: embeddings [image, feature], Y: one-hot labels     (equation 4)
    scores = alpha f(x)^T W + beta                                                               (section 3.3)

The inverse is of a matrix as small as the support set. Its gradient goes to the embeddings, and lambda, alpha
and beta are learned with them.

Reference:
    Bertinetto, Henriques, Torr & Vedaldi, Meta-learning with differentiable closed-form solvers, 2019.
    arXiv:1805.08136
Differs:
    The network is the one given; the paper's has features of several layers. lambda is learned as its
    logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
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

_LOG_RIDGE, _SCALE, _OFFSET = "ridge:log_lambda", "ridge:alpha", "ridge:beta"


@frozen
class R2D2(MetaLearner):
    """Ridge regression differentiable discriminator.

    Args:
        ridge: Strength of the regularisation (lambda) at the start, above 0.
        scale: Factor on the scores (alpha) at the start, above 0.
    """

    ridge: float = field(default=1.0, validator=gt(0.0))
    scale: float = field(default=10.0, validator=gt(0.0))

    exact_gradient: ClassVar[Mapping[str, Any]] = {}
    computes_head: ClassVar[bool] = True
    forms: ClassVar[frozenset[str]] = frozenset({"classification"})

    def extra_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        like = next(iter(parameters.values()))
        return {
            _LOG_RIDGE: torch.log(like.new_tensor(self.ridge)),
            _SCALE: like.new_tensor(self.scale),
            _OFFSET: like.new_tensor(0.0),
        }

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, shared = episodes.support, FastWeights(parameters, is_shared=True)
        compute = partial(_with_ridge_head, ways=support.ways)
        query = episodes.query(engine.solve(shared, support, compute).tensors)
        outcome = engine.judge(shared, support, query, compute)
        gradients = {name: t.mean(0) for name, t in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        fitted = engine.solve(
            FastWeights(parameters, is_shared=True), support, partial(_with_ridge_head, ways=support.ways)
        )
        return [FastWeights({name: parameters[name] for name in engine.names}, is_shared=True), fitted]


def _with_ridge_head(
    engine: Engine, parameters: Parameters, support: Labelled, ways: int
) -> dict[str, Tensor]:
    """Return one task's parameters with the head that the regression gives."""
    embedded = engine.embed(parameters, support.images)
    ridge = parameters[_LOG_RIDGE].exp() * torch.eye(
        len(embedded), dtype=embedded.dtype, device=embedded.device
    )
    solution = embedded.T @ torch.linalg.solve(
        embedded @ embedded.T + ridge, support.one_hot(ways)
    )  # [feature, way]
    head = {
        "weight": parameters[_SCALE] * solution.T,
        "bias": parameters[_OFFSET].expand(ways),
    }
    own = {name: parameters[name] for name in engine.names}
    return own | {f"{engine.head}.{name}": t for name, t in head.items()}


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"r2d2": R2D2}
