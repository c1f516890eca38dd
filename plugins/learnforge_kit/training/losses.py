"""Losses on labels."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from learnforge.kinds.seen.network import Outputs
from learnforge.kinds.task import Batch


def label_loss(student: Outputs, batch: Batch) -> Tensor:
    """Return the loss of a batch with its labels that the task's form has, smoothed as the training asks: a
    scalar, for classification the cross-entropy in nats.

    Most distillers add it to what the teacher says.
    """
    return batch.loss(student.logits)


def supervised_loss(network: nn.Module) -> Callable[[Batch], Tensor]:
    """Return the loss of plain supervised training, that of the task's form."""
    return lambda batch: batch.loss(network(batch.images))
