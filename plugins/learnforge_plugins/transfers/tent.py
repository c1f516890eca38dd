"""Test-time entropy minimisation: the scales and shifts of normalisation move until predictions are sure.

    minimise over gamma, beta of batch normalisation:  mean over images of H(p)              (section 3.1)

Batches are normalised by their own statistics (section 3.2). A test-time method in that it needs neither the
source images nor a label; here it adapts on the new task's training images, so that no test image is read.

Reference:
    Wang, Shelhamer, Liu, Olshausen & Darrell, Tent: fully test-time adaptation by entropy minimization, 2021.
    arXiv:2006.10726
Differs:
    The paper adapts on the test images as they come and goes on normalising by batches; here the network that
    is handed on has running statistics, those of the new task's training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, gt
from torch import Tensor, nn

from learnforge import Context, DirectTransfer, StageError, Task, TaskInfo, Transfer, derive, hookimpl
from learnforge_kit import Normaliser, find_normalisations, measure_statistics, permutation


@frozen
class Tent(DirectTransfer):
    """Entropy minimisation of Wang et al.

    Args:
        epochs: Passes over the images, from 0.
        batch_size: Images in a batch, from 2.
        learning_rate: Adam's learning rate, above 0.
    """

    epochs: int = field(default=1, validator=ge(0))
    batch_size: int = field(default=64, validator=ge(2))
    learning_rate: float = field(default=1e-3, validator=gt(0.0))

    uses_labels: ClassVar[bool] = False

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        if old.outputs != new.outputs:
            raise StageError(
                f"the new task must have the classes that the network knows, in their order: it knows "
                f"{old.outputs}, the task has {new.outputs}"
            )
        if not any(layer.affine for layer in find_normalisations(network)):
            raise StageError(
                f"{type(network).__name__} must have batch normalisation with weights to adapt, it has none"
            )
        return network

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        layers = [layer for layer in find_normalisations(network) if layer.affine]
        network.eval().requires_grad_(False)
        for layer in layers:
            layer.train().requires_grad_(True)
        parameters = [p for layer in layers for p in layer.parameters()]
        optimizer = torch.optim.Adam(parameters, self.learning_rate)
        for epoch in range(self.epochs):
            for images in self._batches(task, context, epoch):
                optimizer.zero_grad()
                _entropy(network(images)).backward()
                optimizer.step()
        measure_statistics(network, self._batches(task, context, self.epochs))
        return network

    def _batches(self, task: Task, context: Context, epoch: int) -> Iterator[Tensor]:
        normalise = Normaliser(task.info, context.device)
        order = permutation(derive(context.seed, "tent", epoch), len(task.train))
        batches = task.train.batches(order, self.batch_size)
        return (normalise(images) for images, _, _ in batches if len(images) > 1)


def _entropy(scores: Tensor) -> Tensor:
    """Return the mean entropy of predictions, in nats."""
    logs = scores.log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"tent": Tent}
