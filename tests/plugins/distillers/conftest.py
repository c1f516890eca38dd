"""Distillers by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from torch import Tensor

from learnforge import Batch, Outputs, Plugins
from learnforge.options.structure import build

Compute = Callable[..., Tensor]


@pytest.fixture
def make(plugins: Plugins) -> Callable[..., Any]:
    """Make a distiller from its name and options."""
    return lambda name, **options: build(plugins.load("distiller", name), options, "test", plugins.resolve)


@pytest.fixture
def compute(make: Callable[..., Any], batch_of: Callable[..., Batch]) -> Compute:
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
        found: Tensor = make(name, **options).loss(own, known, batch_of(labels, progress))
        return found

    return loss
