"""Adaptive batch normalisation: the weights stay, the batch statistics become the new task's.

    running mean and variance of each normalisation = those of its inputs over the new task's training images

Nothing is trained and no label is read; what differs between the domains in mean and scale is taken out,
layer by layer.

Reference:
    Li, Wang, Shi, Liu & Hou, Revisiting batch normalization for practical domain adaptation, 2016.
    arXiv:1603.04779
Differs:
    Statistics are means over images by batches, in each of which the layers below already use the batch's
    own.
"""

from __future__ import annotations

from typing import ClassVar

from attrs import field, frozen
from attrs.validators import ge
from torch import nn

from learnforge import Context, DirectTransfer, StageError, Task, TaskInfo, Transfer, hookimpl
from learnforge_kit import Normaliser, find_normalisations, measure_statistics, permutation


@frozen
class AdaBN(DirectTransfer):
    """Adaptive batch normalisation of Li et al.

    Args:
        batch_size: Images in a batch, from 2.
    """

    batch_size: int = field(default=256, validator=ge(2))

    uses_labels: ClassVar[bool] = False

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        if old.outputs != new.outputs:
            raise StageError(
                f"the new task must have the classes that the network knows, in their order: it knows "
                f"{old.outputs}, the task has {new.outputs}"
            )
        if not find_normalisations(network):
            raise StageError(f"{type(network).__name__} must have batch normalisation to adapt, it has none")
        return network

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        normalise = Normaliser(task.info, context.device)
        batches = task.train.batches(permutation(context.seed, len(task.train)), self.batch_size)
        measure_statistics(network, (normalise(images) for images, _, _ in batches))
        return network


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"adabn": AdaBN}
