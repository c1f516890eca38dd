"""Several distillers at once: weights, parts and layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from learnforge import Outputs, RecipeError
from learnforge_kit.networks.layers import read_layers
from learnforge_testing.toys import make_network, make_task


def test_losses_are_weighed_and_added(make: Any, batch_of: Any) -> None:
    """The loss is the weighted sum of the methods' own; without weights each counts once."""
    student, teacher = (
        Outputs(scores) for scores in torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    )
    batch = batch_of([0, 1, 2])
    parts = [float(make(name).loss(student, teacher, batch)) for name in ("kd", "dist")]
    both = make("sum", methods=["kd", {"use": "dist"}], weights=[2.0, 0.5])
    assert float(both.loss(student, teacher, batch)) == pytest.approx(2 * parts[0] + 0.5 * parts[1], rel=1e-6)
    criterion = make("sum", methods=["kd", "dist"]).criterion(student, teacher, make_task())
    assert criterion(student, teacher, batch).item() == pytest.approx(sum(parts), rel=1e-6)


def test_layers_and_modules_are_side_by_side(make: Any) -> None:
    """Taps are those of all methods, each once; what the methods train is registered."""
    task = make_task()
    layers = read_layers(make_network(task.info).eval(), torch.zeros(2, 1, 8, 8))
    both = make("sum", methods=["rkd", "crd", "fitnet"])
    assert both.taps(layers, layers) == (["embedding", "stage 2"], ["embedding", "stage 2"])
    taps = {"embedding": torch.zeros(2, 64), "stage 2": torch.zeros(2, 8, 8, 1)}
    outputs = Outputs(torch.zeros(2, 3), taps, layers)
    criterion = both.criterion(outputs, outputs, task)
    names = {name.split(".")[1] for name, _ in criterion.named_parameters()}
    assert names == {"0", "1"}


def test_weights_must_fit_the_methods(make: Any) -> None:
    """A missing weight, and no method at all, are refused."""
    with pytest.raises(RecipeError, match=r"a number for each of 2 methods, got \[1\.0\]"):
        make("sum", methods=["kd", "dist"], weights=[1.0])
    with pytest.raises(RecipeError, match="methods must name at least one distiller"):
        make("sum", methods=[])
    with pytest.raises(RecipeError, match=r"methods\[1\].*there is no distiller 'kdd'; did you mean 'kd'"):
        make("sum", methods=["kd", "kdd"])
