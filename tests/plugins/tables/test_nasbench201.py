"""The packed NAS-Bench-201 table: rows, units, and what it says of equal cells."""

from __future__ import annotations

import importlib.util
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learnforge import Plugins, TaskInfo
from learnforge_kit import SpaceView
from learnforge_kit.costs.measuring import measure_cost
from learnforge_plugins.tables import nasbench201 as module

INFO = TaskInfo("task", tuple("abcdefghij"), tuple("abcdefghij"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
BEST = ["nor_conv_3x3", "nor_conv_3x3", "nor_conv_3x3", "skip_connect", "nor_conv_1x1", "nor_conv_3x3"]


@pytest.fixture(scope="module")
def table() -> Any:
    """The table."""
    return Plugins().load("table", "nasbench201")()


def test_known_rows(table: Any) -> None:
    """The best cell by 12-epoch validation accuracy has 84.892 %, and 94.3733 % of the test images after
    200.
    """
    assert table.best() == pytest.approx(84.892, abs=1e-3)
    row = table.train({"cell": BEST}, {})
    assert row.validation == table.best()
    assert row.seconds == pytest.approx(168.3609, abs=1e-3)
    assert table.test({"cell": BEST}, {}) == pytest.approx(94.3733, abs=1e-3)
    foreseen = table.predict_costs({"cell": BEST})
    assert foreseen["parameters"] == pytest.approx(1_073_466, abs=1)


def test_the_cell_that_was_asked_for_is_looked_up(table: Any) -> None:
    """Of two cells that compute the same, each has the row of its own training."""
    view = SpaceView(table.space())
    names = ("0-1", "0-2", "1-2", "0-3", "1-3", "2-3")
    cells = (("nor_conv_1x1", "nor_conv_3x3", "none", "none", "skip_connect", "avg_pool_3x3"),
             ("nor_conv_3x3", "nor_conv_1x1", "none", "none", "avg_pool_3x3", "skip_connect"))  # fmt: skip
    found = [view.complete(dict(zip(names, cell, strict=True)), np.random.default_rng(0)) for cell in cells]
    assert found[0].key == found[1].key
    rows = [table.train(candidate.design, candidate.choices).validation for candidate in found]
    assert rows[0] != rows[1]


def test_costs_are_the_networks_own(table: Any) -> None:
    """Parameters and multiply-adds are in the unit of `learnforge describe space`."""
    with torch.device("meta"):
        cost = measure_cost(table.space().build({"cell": BEST}, INFO), INFO)
    foreseen = table.predict_costs({"cell": BEST})
    assert foreseen["parameters"] == pytest.approx(cost.parameters, abs=1)
    assert foreseen["macs"] == pytest.approx(cost.macs, rel=0.01)


def test_sources_are_named() -> None:
    """NOTICE names every repository that the numbers are from, and its licence."""
    text = (resources.files("learnforge_plugins.tables") / "NOTICE").read_text(encoding="utf-8")
    for source in ("hzf1174/RoBoT", "NiccoloCavagnero/FreeREA", "HayeonLee/HELP", "Apache-2.0", "MIT"):
        assert source in text


def test_strings_of_the_benchmark_are_read() -> None:
    """The packing script reads the operations of the edges in their order."""
    file = Path(__file__).parents[2] / "benchmarks" / "pack_nasbench201.py"
    spec = importlib.util.spec_from_file_location("pack_nasbench201", file)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = "|a~0|+|b~0|c~1|+|d~0|e~1|f~2|"
    assert script.parse(text) == tuple("abcdef")
    assert set(script.SOURCES) == set(module.COLUMNS)
