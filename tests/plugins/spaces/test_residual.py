"""The residual space: normal form, networks, and costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from learnforge import Plugins, RecipeError, Space, Task, TaskInfo
from learnforge.options.structure import build
from learnforge_kit import SpaceView
from learnforge_kit.costs.measuring import measure_cost

INFO = TaskInfo("task", ("a", "b", "c"), ("a", "b", "c"), (1, 8, 8), (0.5,), (0.25,))


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the space from options."""

    def make_space(**options: Any) -> Space:
        return build(plugins.load("space", "residual"), options, "test")

    return make_space


def _complete(space: Space, seed: int = 0, **choices: Any) -> Any:
    named = {name.replace("_", "."): value for name, value in choices.items()}
    return SpaceView(space).complete(named, np.random.default_rng(seed))


def test_choices_make_the_design(make: Any) -> None:
    """Widths, operations, kernels and expansions appear in the design as they were chosen."""
    found = _complete(
        make(stages=2, blocks=1, min_width=8, width_step=4),
        stage0_width=1,
        stage1_width=3,
        stage0_block0_op="residual",
        stage0_block0_kernel=5,
        stage1_block0_op="inverted",
        stage1_block0_kernel=3,
        stage1_block0_expansion=4,
    )
    assert found.design == {
        "stages": [
            {"width": 12, "blocks": [{"op": "residual", "kernel": 5}]},
            {"width": 20, "blocks": [{"op": "inverted", "kernel": 3, "expansion": 4}]},
        ]
    }


def test_skipped_block_leaves_no_trace(make: Any) -> None:
    """Designs are equal whichever block is skipped, and a skipped block's kernel is not even asked for."""
    space = make(stages=1, blocks=2)
    first = _complete(
        space, stage0_width=0, stage0_block0_op="skip", stage0_block1_op="residual", stage0_block1_kernel=3
    )
    second = _complete(
        space, stage0_width=0, stage0_block0_op="residual", stage0_block0_kernel=3, stage0_block1_op="skip"
    )
    assert (
        first.design
        == second.design
        == {"stages": [{"width": 8, "blocks": [{"op": "residual", "kernel": 3}]}]}
    )
    assert first.key == second.key
    assert "stage0.block0.kernel" not in first.choices


def test_expansion_is_asked_of_inverted_blocks_alone(make: Any) -> None:
    """A residual block has no expansion, among the choices or in the design."""
    found = _complete(make(stages=1, blocks=1), stage0_block0_op="residual")
    assert set(found.choices) == {"stage0.width", "stage0.block0.op", "stage0.block0.kernel"}
    assert set(found.design["stages"][0]["blocks"][0]) == {"op", "kernel"}


def test_every_width_can_be_chosen_and_none_beyond(make: Any) -> None:
    """Widths go from `min_width` in steps to the last that is at most `max_width`."""
    space = make(stages=1, blocks=1, min_width=8, max_width=31, width_step=8)
    widths = {_complete(space, seed).design["stages"][0]["width"] for seed in range(60)}
    assert widths == {8, 16, 24}


def test_design_survives_json(make: Any) -> None:
    """A design is plain data, and builds the same network after a round trip through JSON."""
    space = make()
    design = _complete(space, 3).design
    again = json.loads(json.dumps(design))
    assert again == design
    assert str(space.build(again, INFO)) == str(space.build(design, INFO))


@pytest.mark.parametrize("seed", range(3))
def test_equal_designs_build_equal_networks(make: Any, seed: int) -> None:
    """From one state of the generator, equal designs give equal weights and outputs."""
    space = make(max_width=16)
    design = _complete(space, seed).design
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        network = space.build(design, INFO).eval()
        outputs.append(network(torch.ones(2, 1, 8, 8)))
    assert torch.equal(*outputs)


def test_different_designs_build_different_networks(make: Any) -> None:
    """Twenty random designs with different keys make twenty different structures."""
    space = make(max_width=16)
    found = {c.key: str(space.build(c.design, INFO)) for c in (_complete(space, seed) for seed in range(20))}
    assert len(found) == len(set(found.values())) == 20


@pytest.mark.parametrize("seed", range(4))
def test_network_trains_a_step(make: Any, seed: int, task: Task) -> None:
    """Every parameter of a random network gets a finite gradient, and a small step lowers the loss."""
    space = make(max_width=16)
    torch.manual_seed(seed)
    network = space.build(_complete(space, seed).design, task.info)
    images, labels = task.train.images[:30] / 128 - 1, task.train.labels[:30]  # type: ignore[attr-defined]
    before = F.cross_entropy(network(images), labels)
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        for p in network.parameters():
            p -= 0.01 * p.grad
    assert F.cross_entropy(network(images), labels).item() < before.item()


@pytest.mark.parametrize("seed", range(4))
def test_cost_is_that_of_the_network(make: Any, seed: int) -> None:
    """Parameters counted on the meta device are those of the network that is trained."""
    space = make()
    design = _complete(space, seed).design
    with torch.device("meta"):
        cost = measure_cost(space.build(design, INFO), INFO)
    assert cost.parameters == sum(p.numel() for p in space.build(design, INFO).parameters())


def test_cost_worked_by_hand(make: Any) -> None:
    """One residual block of 8 channels and kernel 3: stem 72 + 16, block 2 (576 + 16), head 27; 9 · 64
    pixels a weight.
    """
    design = {"stages": [{"width": 8, "blocks": [{"op": "residual", "kernel": 3}]}]}
    with torch.device("meta"):
        cost = measure_cost(make(stages=1).build(design, INFO), INFO)
    assert cost.parameters == 72 + 16 + 2 * (576 + 16) + 27
    assert cost.macs == 64 * (72 + 2 * 576) + 24


@pytest.mark.parametrize("op", ["residual", "inverted"])
def test_block_has_a_shortcut(make: Any, op: str) -> None:
    """A block whose body gives nothing hands on what it was given."""
    design = {"stages": [{"width": 4, "blocks": [{"op": op, "kernel": 3, "expansion": 2}]}]}
    block = next(m for m in make(stages=1).build(design, INFO).modules() if hasattr(m, "body"))
    torch.nn.init.zeros_(block.body[-1][1].weight)
    images = torch.rand(2, 4, 5, 5)
    assert torch.equal(block(images), images)


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 224, 224), (2, 5, 9)])
def test_images_of_any_size_give_class_scores(make: Any, shape: tuple[int, int, int]) -> None:
    """Every size and number of channels gives one score for each class."""
    space = make()
    info = TaskInfo("task", ("a", "b"), ("a", "b"), shape, (0.5,) * shape[0], (0.2,) * shape[0])
    with torch.device("meta"):
        network = space.build(_complete(space, 1).design, info)
        assert network(torch.empty(2, *shape)).shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": [3, 4]}, r"'kernels' must hold odd numbers from 1, got 4"),
        ({"kernels": []}, r"kernels: .*'kernels'"),
        ({"expansions": [0]}, r"'expansions' must be >= 1: 0"),
        ({"stages": 0}, r"stages: 'stages' must be >= 1: 0"),
        ({"min_width": 32, "max_width": 16}, r"max_width must be at least min_width = 32, got 16"),
        ({"max_widht": 16}, r"max_widht: unknown option; did you mean 'max_width'\?"),
    ],
)
def test_wrong_options_are_refused(make: Any, options: Mapping[str, Any], message: str) -> None:
    """A wrong option is refused with its name and what must hold."""
    with pytest.raises(RecipeError, match=message):
        make(**options)
