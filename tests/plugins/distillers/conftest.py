"""Distillers by name, and batches without images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from learnforge import Batch, Outputs, Plugins
from learnforge.options import build

Compute = Callable[..., Tensor]


def _batch(labels: list[int], progress: float = 0.0) -> Batch:
    count = len(labels)
    indices = torch.arange(count)
    images = torch.zeros(count, 1, 2, 2)
    return Batch(images, torch.tensor(labels), indices, torch.zeros_like(indices), progress)


@pytest.fixture
def make(plugins: Plugins) -> Callable[..., Any]:
    """Make a distiller from its name and options."""
    return lambda name, **options: build(plugins.load("distiller", name), options, "test", plugins.resolve)


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """Make a batch from labels."""
    return _batch


@pytest.fixture
def compute(make: Callable[..., Any]) -> Compute:
    """Compute the loss of a distiller without criterion: scores and taps of both, labels, options."""

    def loss(
        name: str,
        student: Tensor,
        teacher: Tensor,
        labels: list[int],
        progress: float = 0.0,
        /,
        *,
        taps: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] = ({}, {}),
        **options: Any,
    ) -> Tensor:
        own, known = Outputs(student, taps[0]), Outputs(teacher, taps[1])
        found: Tensor = make(name, **options).loss(own, known, _batch(labels, progress))
        return found

    return loss
