"""The NAS-Bench-201 space: which cells compute the same, and the networks of the benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from learnforge import Plugins, TaskInfo
from learnforge_kit.costs.measuring import measure_cost
from learnforge_plugins.spaces.nasbench201 import EDGES, OPERATIONS, describe_computation, normal_forms
from learnforge_plugins.tables import nasbench201 as table

INFO = TaskInfo("task", tuple("abcdefghij"), tuple("abcdefghij"), (3, 32, 32), (0.5,) * 3, (0.25,) * 3)
NONE, SKIP, ONE, THREE, POOL = OPERATIONS


def same(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return describe_computation(one) == describe_computation(other)


def test_edges_are_the_benchmarks() -> None:
    """The strings of the benchmark list the edges into node 1, then 2, then 3."""
    assert EDGES == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        # nothing leads to the output
        ((THREE, NONE, NONE, NONE, NONE, NONE), (NONE,) * 6, True),
        # an edge from a node that nothing leads to
        ((NONE, NONE, THREE, SKIP, ONE, NONE), (NONE, NONE, NONE, SKIP, NONE, NONE), True),
        # a node that leads nowhere
        ((THREE, SKIP, NONE, NONE, NONE, ONE), (NONE, SKIP, NONE, NONE, NONE, ONE), True),
        # the two inner nodes change places
        ((ONE, THREE, NONE, NONE, SKIP, POOL), (THREE, ONE, NONE, NONE, POOL, SKIP), True),
        # a skip is what it copies
        ((SKIP, NONE, ONE, NONE, NONE, SKIP), (NONE, NONE, NONE, ONE, NONE, NONE), True),
        # a sum of sums, in any order
        ((THREE, ONE, SKIP, POOL, NONE, SKIP), (ONE, THREE, SKIP, POOL, NONE, SKIP), True),
        # one convolution used twice is not two
        ((ONE, NONE, NONE, NONE, SKIP, NONE), (ONE, NONE, SKIP, NONE, SKIP, SKIP), False),
        ((ONE, NONE, SKIP, NONE, SKIP, SKIP), (ONE, ONE, NONE, NONE, SKIP, SKIP), False),
        # pooling has no weights: once used twice is twice
        ((POOL, NONE, SKIP, NONE, SKIP, SKIP), (POOL, POOL, NONE, NONE, SKIP, SKIP), True),
        ((ONE, NONE, THREE, NONE, NONE, SKIP), (THREE, NONE, ONE, NONE, NONE, SKIP), False),
    ],
)
def test_cells_that_compute_the_same(one: tuple[str, ...], other: tuple[str, ...], are_same: bool) -> None:
    """Dead edges, copies, orders of sums and names of nodes do not count; weights do."""
    assert same(one, other) is are_same


def test_every_cell_has_its_normal_form() -> None:
    """15,625 cells are 5,260 computations; a normal form is its own, the first of its cells, and has no dead
    edge.
    """
    forms = normal_forms()
    assert len(forms) == 15_625
    assert len(set(forms.values())) == 5_260
    order = {cell: i for i, cell in enumerate(forms)}
    for cell, form in forms.items():
        assert forms[form] == form
        assert order[form] <= order[cell]


def evaluate(cell: tuple[str, ...], weights: dict[Any, Any], images: Any) -> Any:
    """Compute a cell edge by edge, each convolution with weights of its own, as the benchmark does."""
    values = [images]
    for node in (1, 2, 3):
        total = torch.zeros_like(images)
        for source in range(node):
            operation = cell[EDGES.index((source, node))]
            value = values[source]
            if operation == SKIP:
                total = total + value
            elif operation == POOL:
                total = total + torch.nn.functional.avg_pool2d(value, 3, 1, 1, count_include_pad=False)
            elif operation != NONE:
                total = total + torch.einsum("oi,bihw->bohw", weights[source, node], value.relu())
        values.append(total)
    return values[3]


def test_normal_forms_can_compute_what_their_cells_do() -> None:
    """With the weights of a cell's convolutions, in some order, its normal form gives the same output.

    Convolutions of either size stand as linear maps without bias, so that dead paths give zero, as they are
    counted.
    """
    import itertools

    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    images = torch.randn(1, 2, 5, 5, dtype=torch.float64, generator=generator)
    cells = list(normal_forms())
    for index in rng.integers(len(cells), size=150):
        cell, form = cells[index], normal_forms()[cells[index]]
        own = [e for e, op in zip(EDGES, cell, strict=True) if op in (ONE, THREE)]
        others = [e for e, op in zip(EDGES, form, strict=True) if op in (ONE, THREE)]
        weights = {e: torch.randn(2, 2, dtype=torch.float64, generator=generator) for e in own}
        wanted = evaluate(cell, weights, images)
        assert any(
            torch.allclose(
                evaluate(form, dict(zip(others, map(weights.get, order), strict=True)), images), wanted
            )
            for order in itertools.permutations(own, len(others))
        ), (cell, form)


@pytest.fixture(scope="module")
def space() -> Any:
    """The space with the benchmark's sizes."""
    return Plugins().load("space", "nasbench201")()


@pytest.mark.slow
def test_networks_have_the_benchmarks_parameters(space: Any) -> None:
    """Built from its normal form, a cell without dead convolutions has the very parameters that the
    benchmark counts.
    """
    columns = table._columns()
    rng, forms = np.random.default_rng(1), list(normal_forms())
    checked = 0
    for index in rng.integers(len(forms), size=60):
        cell = forms[index]
        if normal_forms()[cell] != cell:
            continue
        with torch.device("meta"):
            cost = measure_cost(space.build({"cell": list(cell)}, INFO), INFO)
        assert cost.parameters == pytest.approx(float(columns["parameters"][index]), abs=1.0), cell
        checked += 1
    assert checked > 10


def test_an_empty_cell_gives_zeros(space: Any) -> None:
    """Where nothing leads to the output, its value is zero, of the right shape, and gradients are finite."""
    network = space.build({"cell": [NONE] * 6}, INFO)
    scores = network(torch.randn(2, 3, 32, 32))
    scores.sum().backward()
    assert scores.shape == (2, 10)
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_stages_double_their_channels(plugins: Plugins) -> None:
    """Channels, cells and classes are as asked; the resolution is halved twice."""
    small = plugins.load("space", "nasbench201")(channels=4, cells=1)
    network = small.build({"cell": [NONE, NONE, NONE, THREE, NONE, NONE]}, INFO)
    shapes = []
    for layer in network:
        layer.register_forward_hook(lambda layer, inputs, output: shapes.append(tuple(output.shape[1:])))
    network(torch.zeros(1, 3, 32, 32))
    assert shapes[2] == (4, 32, 32)
    assert (8, 16, 16) in shapes
    assert (16, 8, 8) in shapes
