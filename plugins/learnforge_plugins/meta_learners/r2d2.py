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
from typing import Any, ClassVar

import torch
from attrs import field, frozen
from attrs.validators import gt
from torch import Tensor

from learnforge import MetaLearner, Parameters, hookimpl
from learnforge_kit import HeadLearner

_LOG_RIDGE, _SCALE, _OFFSET = "ridge:log_lambda", "ridge:alpha", "ridge:beta"


@frozen
class R2D2(HeadLearner):
    """Ridge regression differentiable discriminator.

    Args:
        ridge: Strength of the regularisation (lambda) at the start, above 0.
        scale: Factor on the scores (alpha) at the start, above 0.
    """

    ridge: float = field(default=1.0, validator=gt(0.0))
    scale: float = field(default=10.0, validator=gt(0.0))

    exact_gradient: ClassVar[Mapping[str, Any]] = {}

    def extra_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        like = next(iter(parameters.values()))
        return {
            _LOG_RIDGE: torch.log(like.new_tensor(self.ridge)),
            _SCALE: like.new_tensor(self.scale),
            _OFFSET: like.new_tensor(0.0),
        }

    def head(self, features: Tensor, members: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        identity = torch.eye(len(features), dtype=features.dtype, device=features.device)
        kernel = features @ features.T + parameters[_LOG_RIDGE].exp() * identity  # [image, image]
        solution = features.T @ torch.linalg.solve(kernel, members)  # [feature, way]
        return parameters[_SCALE] * solution.T, parameters[_OFFSET].expand(members.shape[1])


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"r2d2": R2D2}
