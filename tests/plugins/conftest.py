"""Batches without images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from learnforge import Batch


def _batch(labels: list[int], progress: float = 0.0) -> Batch:
    count = len(labels)
    indices = torch.arange(count)
    images = torch.zeros(count, 1, 2, 2)
    return Batch(images, torch.tensor(labels), indices, torch.zeros_like(indices), progress)


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Make a batch from labels."""
    return _batch
