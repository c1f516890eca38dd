"""The engine `loop`: task by task, with autograd."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor

from learnforge.kinds.seen.engine import FastWeights, Judgement, Loss, Parameters, Solution, Step
from learnforge.kinds.seen.episodes import Labelled
from learnforge_kit.engines.engine import NetworkEngine, hessian_product, of_task, share_right, stack_tasks


class LoopEngine(NetworkEngine):
    """One task after the other, with autograd."""

    def step(self, weights: FastWeights, support: Labelled, names: Collection[str] | None = None) -> Step:
        tasks = len(support.labels)
        asked = [name for name in weights.tensors if names is None or name in names]
        leaves, losses, gradients = [], [], []
        for task in range(tasks):
            theta = {name: t.detach().requires_grad_() for name, t in weights.of(task).items()}
            with torch.enable_grad():
                loss = self._support_loss(theta, support.images[task], support.labels[task])
                found = torch.autograd.grad(
                    loss, [theta[name] for name in asked], create_graph=True, materialize_grads=True
                )
            leaves.append(theta)
            losses.append(loss.detach())
            gradients.append(dict(zip(asked, found, strict=True)))

        def hessian_vector(cotangent: Parameters) -> dict[str, Tensor]:
            return stack_tasks(
                [
                    hessian_product(gradients[t], leaves[t], {n: c[t] for n, c in cotangent.items()})
                    for t in range(tasks)
                ]
            )

        return Step(
            stack_tasks([{n: g.detach() for n, g in found.items()} for found in gradients]),
            torch.stack(losses),
            hessian_vector,
        )

    def judge(
        self,
        weights: FastWeights,
        support: Labelled,
        query: Labelled,
        solution: Solution | None = None,
        loss: Loss | None = None,
    ) -> Judgement:
        judge = partial(self._query_loss, solution, loss)
        gradients, losses, accuracies = [], [], []
        for task in range(len(query.labels)):
            theta = {name: t.detach().requires_grad_() for name, t in weights.of(task).items()}
            with torch.enable_grad():
                own, outputs = judge(theta, *of_task(support, task), *of_task(query, task))
                found = torch.autograd.grad(own, list(theta.values()), materialize_grads=True)
            gradients.append(dict(zip(theta, found, strict=True)))
            losses.append(own.detach())
            accuracies.append(share_right(outputs.detach(), query.labels[task]))
        return Judgement(stack_tasks(gradients), torch.stack(losses), torch.stack(accuracies))

    def solve(self, weights: FastWeights, support: Labelled, solution: Solution) -> FastWeights:
        with torch.no_grad():
            found = [
                solution(self, weights.of(task), Labelled(*of_task(support, task)))
                for task in range(len(support.labels))
            ]
        return FastWeights(stack_tasks(found))

    def predict(self, weights: FastWeights, support: Labelled, query: Labelled) -> Tensor:
        with torch.no_grad():
            return torch.stack(
                [
                    self._predict(weights.of(task), *of_task(support, task), query.images[task])
                    for task in range(len(query.labels))
                ]
            )
