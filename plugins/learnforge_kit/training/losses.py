"""Losses on labels."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from learnforge.kinds.seen.network import Outputs
from learnforge.kinds.task import Batch
from learnforge_kit.training.settings import Train


def label_loss(student: Outputs, batch: Batch) -> Tensor:
    """Return the cross-entropy of a batch with its labels, smoothed as the training asks: a scalar, in nats.

    Most distillers add it to what the teacher says.
    """
    return F.cross_entropy(student.logits, batch.targets, label_smoothing=batch.label_smoothing)


def cross_entropy(network: nn.Module, settings: Train) -> Callable[[Batch], Tensor]:
    """Return the loss of plain supervised training."""
    return lambda batch: F.cross_entropy(
        network(batch.images), batch.targets, label_smoothing=settings.label_smoothing
    )
