"""The engine `vmap`: all tasks at once, vectorised."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vmap

from learnforge.kinds.seen.engine import FastWeights, Judgement, Loss, Parameters, Solution, Step
from learnforge.kinds.seen.episodes import Labelled
from learnforge_kit.engines.engine import NetworkEngine, share_right

CHUNK = 8
"""Tasks that are computed at a time where they are vectorised; more would only need more memory."""


class VmapEngine(NetworkEngine):
    """All tasks at once, vmap outermost."""

    def run(self, weights: FastWeights, images: Tensor) -> Tensor:
        axis = None if weights.is_shared else 0
        with torch.no_grad():
            outputs: Tensor = vmap(self.forward, in_dims=(axis, 0))(dict(weights.tensors), images)
            return outputs

    def step(self, weights: FastWeights, support: Labelled, names: Collection[str] | None = None) -> Step:
        theta = dict(weights.tensors)
        axis = None if weights.is_shared else 0
        asked = [name for name in theta if names is None or name in names]

        def gradient(parameters: Parameters, images: Tensor, labels: Tensor) -> Any:
            def loss(moving: Parameters) -> Tensor:
                return self._support_loss({**parameters, **moving}, images, labels)

            return torch.func.grad_and_value(loss)({name: parameters[name] for name in asked})

        def product(parameters: Parameters, vector: Parameters, images: Tensor, labels: Tensor) -> Any:
            def slope(at: Parameters) -> Tensor:
                found, _ = gradient(at, images, labels)
                return torch.stack([(found[name] * vector[name]).sum() for name in asked]).sum()

            return grad(slope)(parameters)

        def hessian_vector(cotangent: Parameters) -> dict[str, Tensor]:
            run = vmap(product, in_dims=(axis, 0, 0, 0), chunk_size=CHUNK)
            found: dict[str, Tensor] = run(theta, dict(cotangent), support.images, support.labels)
            return found

        run = vmap(gradient, in_dims=(axis, 0, 0), chunk_size=CHUNK)
        gradients, losses = run(theta, support.images, support.labels)
        return Step(gradients, losses, hessian_vector)

    def judge(
        self,
        weights: FastWeights,
        support: Labelled,
        query: Labelled,
        solution: Solution | None = None,
        loss: Loss | None = None,
    ) -> Judgement:
        axis = None if weights.is_shared else 0
        slope = torch.func.grad_and_value(partial(self._query_loss, solution, loss), has_aux=True)
        run = vmap(slope, in_dims=(axis, 0, 0, 0, 0), chunk_size=CHUNK)
        pairs = (support.images, support.labels, query.images, query.labels)
        gradients, (losses, outputs) = run(dict(weights.tensors), *pairs)
        return Judgement(gradients, losses, share_right(outputs, query.labels))

    def solve(self, weights: FastWeights, support: Labelled, solution: Solution) -> FastWeights:
        def adapt(parameters: Parameters, images: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
            return solution(self, parameters, Labelled(images, labels))

        axis = None if weights.is_shared else 0
        with torch.no_grad():
            run = vmap(adapt, in_dims=(axis, 0, 0), chunk_size=CHUNK)
            return FastWeights(run(dict(weights.tensors), support.images, support.labels))

    def predict(self, weights: FastWeights, support: Labelled, query: Labelled) -> Tensor:
        axis = None if weights.is_shared else 0
        with torch.no_grad():
            run = vmap(self._predict, in_dims=(axis, 0, 0, 0), chunk_size=CHUNK)
            outputs: Tensor = run(dict(weights.tensors), support.images, support.labels, query.images)
            return outputs
