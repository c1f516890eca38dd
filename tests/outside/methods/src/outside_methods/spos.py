"""SPOS: one network of shared weights, trained on one random path a step, judges every design.

A design's layer takes the leading part of the shared weights of its name, as slimmable networks do, so that
any space has them.

Reference:
    Guo et al., Single path one-shot neural architecture search with uniform sampling, 2020. arXiv:1904.00420
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn
from torch.func import functional_call

from learnforge import Batch, Context, Evaluator, Space, Task, Trial, View, derive, hookimpl, seeded
from learnforge_kit import Normaliser, Train, Trainee, evaluate, fit, measure_statistics


@frozen
class SPOS(Evaluator):
    """Inherits weights of a supernet, and measures batch statistics anew for each design.

    Args:
        supernet: How the shared weights are trained.
        paths: Random designs whose layers the supernet has, from 1.
        images: Training images that batch statistics are measured on, from 2.
    """

    supernet: Train = Train(epochs=30)
    paths: int = field(default=200, validator=ge(1))
    images: int = field(default=512, validator=ge(2))

    def prepare(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Mapping[str, Tensor]:
        def path(number: int) -> nn.Module:
            design = view.random(np.random.default_rng(derive(context.seed, "path", number))).design
            return space.build(design, task.info).to(context.device).train()

        weights = nn.ParameterDict()
        with seeded(context.seed):
            for number in range(self.paths):
                for name, parameter in path(number).named_parameters():
                    _grow(weights, name.replace(".", "/"), parameter.detach())
        counts = {"steps": 0}

        def loss(batch: Batch) -> Tensor:
            counts["steps"] += 1
            network = path(counts["steps"] % self.paths)
            own = {name: _part(weights, name, p) for name, p in network.named_parameters()}
            return nn.functional.cross_entropy(functional_call(network, own, batch.images), batch.targets)

        fit(Trainee(weights, loss, counts=counts), task.train, task.info, self.supernet, context, "supernet")
        return weights.state_dict()

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        task, device = trial.task, trial.context.device
        with seeded(trial.context.seed):
            network = trial.space.build(trial.design, task.info).to(device)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(_part(trial.shared, name, parameter))
        seen = task.train.batches(torch.arange(min(self.images, len(task.train))), 64)
        measure_statistics(network, (Normaliser(task.info, device)(images) for images, *_ in seen))
        found = evaluate(network, task.validation, task.info, trial.train.eval_batch_size)
        return {"accuracy": found.accuracy, "loss": found.loss}


def _grow(weights: nn.ParameterDict, name: str, new: Tensor) -> None:
    """Make a weight as large as both it and a layer's, keeping what is there."""
    old = weights[name].detach() if name in weights else new[:0]
    grown = new.new_zeros([max(pair) for pair in zip(old.shape, new.shape, strict=True)])
    for part in (new, old):
        grown[tuple(map(slice, part.shape))] = part
    weights[name] = grown


def _part(shared: Any, name: str, like: Tensor) -> Tensor:
    whole = shared[name.replace(".", "/")]
    return whole[tuple(map(slice, like.shape))]


@hookimpl
def learnforge_evaluators() -> dict[str, type[Evaluator]]:
    return {"spos": SPOS}
