"""NAS-Bench-201 on CIFAR-10: every one of its 15,625 cells, trained.

A searcher is told the validation accuracy after 12 epochs and pays the seconds of that training; the test
accuracy is that of the chosen cell after 200 epochs. Zero-cost scores `logsynflow` and `naswot`, parameters
and multiply-adds (both in the unit of the networks themselves), and latencies on a Raspberry Pi 4 and a
GeForce 1080 Ti are known beforehand.

Reference:
    Dong & Yang, NAS-Bench-201: extending the scope of reproducible neural architecture search, 2020.
    arXiv:2001.00326
    The numbers come from repositories that NOTICE names, beside this file.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from learnforge import Published, Space, Table, Trained, hookimpl, load_method

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("0-1", "0-2", "1-2", "0-3", "1-3", "2-3")
"""Names of the space's choices, in the order of the benchmark's strings."""
COLUMNS = (
    "validation",
    "seconds",
    "test",
    "parameters",
    "macs",
    "logsynflow",
    "naswot",
    "raspi4_ms",
    "1080ti_ms",
)
"""What the packed file holds, a float32 column each; rows in the order of `itertools.product(OPERATIONS,
repeat=6)`.
"""
PAPER = "Dong & Yang 2020, table 5"


@frozen
class NASBench201Table(Table):
    """NAS-Bench-201 on CIFAR-10. It has no options."""

    def space(self) -> Space:
        space: Space = load_method("space.nasbench201")()
        return space

    def train(self, design: Mapping[str, Any], choices: Mapping[str, Any]) -> Trained:
        row = _row(_asked(design, choices))
        return Trained(float(_columns()["validation"][row]), float(_columns()["seconds"][row]))

    def test(self, design: Mapping[str, Any], choices: Mapping[str, Any]) -> float:
        return float(_columns()["test"][_row(_asked(design, choices))])

    def best(self) -> float:
        return float(_columns()["validation"].max())

    def predict_costs(self, design: Mapping[str, Any]) -> Mapping[str, float]:
        row = _row(design["cell"])
        return {name: float(_columns()[name][row]) for name in COLUMNS[3:]}

    def scores(self) -> Sequence[str]:
        return ("logsynflow", "naswot")

    def published(self) -> Sequence[Published]:
        return (
            Published("random search", 93.70, 0.36, PAPER),
            Published("REA", 93.92, 0.30, PAPER),
            Published("REINFORCE", 93.85, 0.37, PAPER),
            Published("BOHB", 93.61, 0.52, PAPER),
            Published("optimum", 94.37, 0.0, PAPER),
        )


def _asked(design: Mapping[str, Any], choices: Mapping[str, Any]) -> Sequence[str]:
    """Return the very cell that was asked for: those that compute the same were trained one by one."""
    return [choices[edge] for edge in EDGES] if choices else design["cell"]


def _row(cell: Sequence[str]) -> int:
    row = 0
    for operation in cell:
        row = len(OPERATIONS) * row + OPERATIONS.index(operation)
    return row


@functools.cache
def _columns() -> dict[str, npt.NDArray[np.float32]]:
    file = resources.files("learnforge_plugins.tables") / "nasbench201.npz"
    with file.open("rb") as stream, np.load(stream) as packed:
        return {name: packed[name] for name in COLUMNS}


@hookimpl
def learnforge_tables() -> dict[str, type[Table]]:
    return {"nasbench201": NASBench201Table}
