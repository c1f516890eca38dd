"""The cell space of NAS-Bench-201: five operations on the six edges of a cell, stacked into a network.

A cell has four nodes; its input is node 0, its output node 3, and an edge from each node to each later one
carries an operation. A node's value is the sum of what its edges bring. Cells that compute the same are
one design: an edge without operation and everything that depends on nothing else is left out, a skip
connection stands for what it copies, and the order of sums and the names of nodes do not count. The 15,625
strings of operations are 5,260 distinct computations. Each is written as the first of its strings, in the
order of `OPERATIONS`.

Reference:
    Dong & Yang, NAS-Bench-201: extending the scope of reproducible neural architecture search, 2020.
    arXiv:2001.00326
Differs:
    The authors' own rule leaves 6,466 cells: a node that several empty edges lead to is not yet empty to it,
    and sums within sums stay apart. Here a convolution whose result is used twice differs from two
    convolutions.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from learnforge import Pick, Space, TaskInfo, hookimpl

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(from, to), in the order of the benchmark's strings."""
Term = tuple[Any, ...]


@frozen
class NASBench201(Space):
    """Networks of NAS-Bench-201: a stem, three stages of equal cells, a residual block between stages.

    Args:
        channels: Channels of the first stage, from 1; doubled in each further one.
        cells: Cells in a stage, from 1.
    """

    channels: int = field(default=16, validator=ge(1))
    cells: int = field(default=5, validator=ge(1))

    def design(self, pick: Pick) -> dict[str, Any]:
        cell = tuple(pick.choice(f"{a}-{b}", OPERATIONS) for a, b in EDGES)
        return {"cell": list(normal_forms()[cell])}

    def build(self, design: dict[str, Any], task: TaskInfo) -> nn.Module:
        width = self.channels
        layers: list[nn.Module] = [
            nn.Conv2d(task.input_shape[0], width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        ]
        for stage in range(3):
            if stage:
                layers.append(Reduction(width, 2 * width))
                width *= 2
            layers += [Cell(design["cell"], width) for _ in range(self.cells)]
        tail = [nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        return nn.Sequential(*layers, *tail, nn.Linear(width, task.outputs))


class Cell(nn.Module):
    """A cell whose every edge is needed.

    Args:
        operations: One for each edge.
        width: Channels.
    """

    def __init__(self, operations: Sequence[str], width: int):
        super().__init__()
        self.used = {edge: op for edge, op in zip(EDGES, operations, strict=True) if op != "none"}
        self.edges = nn.ModuleDict({f"{a}-{b}": _operation(op, width) for (a, b), op in self.used.items()})

    def forward(self, images: Tensor) -> Tensor:
        values: list[Tensor | None] = [images]
        for node in (1, 2, 3):
            total: Tensor | None = None
            for source in range(node):
                value = values[source]
                if (source, node) in self.used and value is not None:
                    brought = self.edges[f"{source}-{node}"](value)
                    total = brought if total is None else total + brought
            values.append(total)
        output = values[3]
        return output if output is not None else images * 0.0


class Reduction(nn.Module):
    """The residual block between stages: half the resolution, twice the channels."""

    def __init__(self, inside: int, outside: int):
        super().__init__()
        self.first = _conv(inside, outside, 3, stride=2)
        self.second = _conv(outside, outside, 3)
        pool = nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)
        self.shortcut = nn.Sequential(pool, nn.Conv2d(inside, outside, 1, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.shortcut(images) + self.second(self.first(images))
        return result


def _operation(name: str, width: int) -> nn.Module:
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    return _conv(width, width, 1 if name == "nor_conv_1x1" else 3)


def _conv(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(outside))


@functools.cache
def normal_forms() -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return, for each of the 15,625 cells, the first cell that computes the same."""
    first: dict[str, tuple[str, ...]] = {}
    cells = itertools.product(OPERATIONS, repeat=len(EDGES))
    return {cell: first.setdefault(describe_computation(cell), cell) for cell in cells}


def describe_computation(cell: Sequence[str]) -> str:
    """Return a text that two cells share if they compute the same.

    A value is a sorted tuple of terms: `("x",)` for the cell's input, `(operation, value)`, and for what has
    weights also which convolution it is, since one that is used twice is not the same as two.
    """
    operations = dict(zip(EDGES, cell, strict=True))
    values: list[tuple[Term, ...]] = [(("x",),)]
    for node in (1, 2, 3):
        terms: list[Term] = []
        for source in range(node):
            operation, value = operations[source, node], values[source]
            if operation == "skip_connect":
                terms += value
            elif operation == "avg_pool_3x3" and value:
                terms.append((operation, value))
            elif operation != "none" and value:
                terms.append((operation, value, (source, node)))
        values.append(tuple(sorted(terms, key=repr)))
    output = values[3]
    return min(repr(_renamed(output, names)) for names in _namings(output))


def _namings(value: tuple[Term, ...]) -> Iterator[dict[Any, int]]:
    """Yield every way to number the convolutions behind a value that leaves unlike ones in a fixed order."""
    alike: dict[str, list[Any]] = {}
    for term in _convolutions(value):
        members = alike.setdefault(repr(_renamed((term,), None)), [])
        if term[2] not in members:
            members.append(term[2])
    groups = [itertools.permutations(alike[key]) for key in sorted(alike)]
    for orders in itertools.product(*groups):
        yield {edge: number for number, edge in enumerate(itertools.chain(*orders))}


def _convolutions(value: tuple[Term, ...]) -> Iterator[Term]:
    for term in value:
        if len(term) == 3:
            yield term
        if len(term) > 1:
            yield from _convolutions(term[1])


def _renamed(value: tuple[Term, ...], names: dict[Any, int] | None) -> tuple[Term, ...]:
    """Number the convolutions of a value anew; without names leave them out."""
    terms = []
    for term in value:
        inner = (_renamed(term[1], names),) if len(term) > 1 else ()
        name = (names[term[2]],) if names is not None and len(term) == 3 else ()
        terms.append((term[0], *inner, *name))
    return tuple(sorted(terms, key=repr))


@hookimpl
def learnforge_spaces() -> dict[str, type[Space]]:
    return {"nasbench201": NASBench201}
