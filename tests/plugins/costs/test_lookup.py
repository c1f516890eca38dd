"""The cost of a table of layers: sums by hand, and what is wrong with files and layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from learnforge import Plugins, RecipeError, TaskInfo
from learnforge.options.structure import build

INFO = TaskInfo("task", ("a", "b"), ("a", "b"), (1, 2, 2), (0.5,), (0.25,))


def network() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)
        )


@pytest.fixture
def make(plugins: Plugins, tmp_path: Path) -> Any:
    """Make the cost with a table of layers."""

    def lookup(layers: Any, **options: Any) -> Any:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        file.write_text(json.dumps({"unit": "ms", "layers": layers}))
        return build(plugins.load("cost", "lookup"), {"file": str(file)} | options, "test")

    return lookup


LAYERS = {"Flatten 1x2x2 > 4": 0.5, "Linear 4 > 4": 1.0, "ReLU 4 > 4": 0.25, "Linear 4 > 2": 2.0}


def test_layers_are_added_up(make: Any) -> None:
    """Each layer counts as often as it runs: 0.5 + 2 * 1 + 2 * 0.25 + 2."""
    assert make(LAYERS).measure(network(), INFO) == 5.0
    assert make(LAYERS, label="phone_ms").label == "phone_ms"
    assert make(LAYERS).label == "lookup"


def test_a_call_costs_once(make: Any, tmp_path: Path) -> None:
    """What a device pays for a call, whatever the network, comes on top of its layers."""
    file = tmp_path / "phone.json"
    file.write_text(json.dumps({"layers": LAYERS, "overhead": 0.125}))
    assert make(LAYERS, file=str(file)).measure(network(), INFO) == 5.125
    file.write_text(json.dumps({"layers": LAYERS, "overhead": "much"}))
    with pytest.raises(ValueError, match="could not convert string to float: 'much'"):
        make(LAYERS, file=str(file)).measure(network(), INFO)


def test_a_missing_layer_is_named(make: Any) -> None:
    """A layer that the file does not know is an error that names it, unless it is told what it costs."""
    few = {name: cost for name, cost in LAYERS.items() if not name.startswith("ReLU")}
    with pytest.raises(ValueError, match=r"must know the layer 'ReLU 4 > 4'; time it, or set `missing`"):
        make(few).measure(network(), INFO)
    assert make(few, missing=0.0).measure(network(), INFO) == 4.5


@pytest.mark.parametrize("layers", [None, {"ReLU": "fast"}, [1]])
def test_a_file_of_another_form_is_refused(make: Any, layers: Any) -> None:
    """What the file must hold is said."""
    with pytest.raises(ValueError, match="must be a JSON file with"):
        make(layers).measure(network(), INFO)


def test_costs_are_not_below_zero(make: Any) -> None:
    """`missing` must be a cost."""
    with pytest.raises(RecipeError, match="'missing' must be at least 0, got -1"):
        make(LAYERS, missing=-1.0)
