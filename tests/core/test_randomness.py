"""Random numbers are pure functions of a seed and of names."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from learnforge.randomness import derive, preserved, seeded


def test_derive_is_pure_and_in_range():
    """Equal arguments give equal seeds in [0, 2**63), known ones forever."""
    assert derive(0, "epoch", 3) == derive(0, "epoch", 3)
    assert all(0 <= derive(seed, "x") < 1 << 63 for seed in range(100))
    # sha256("7/str:a"), first 8 bytes, without the lowest bit
    assert derive(7, "a") == 8060366524489111362


def test_derive_tells_apart_all_that_differs():
    """Seed, order, number and type of the parts all matter."""
    seeds = {
        derive(0), derive(1), derive(0, "a"), derive(0, "a", "b"), derive(0, "b", "a"),
        derive(0, 1), derive(0, "1"), derive(0, 1, 2), derive(0, 12), derive(0, -1),
    }  # fmt: skip
    assert len(seeds) == 10


def test_seeded_gives_the_same_numbers_and_puts_the_state_back():
    """A block draws by its seed, and what follows it draws as if it had never been."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(9):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(9):
        assert torch.equal(torch.rand(3), inside)


def draws():
    """Draw from every global generator."""
    return random.random(), np.random.rand(), float(torch.rand(()))


def disturb():
    """Draw from every generator, seed two of them, and fail."""
    with preserved():
        draws()
        torch.manual_seed(1)
        random.seed(1)
        raise OSError("full")


def test_preserved_puts_all_generators_back():
    """Whatever a block draws, seeds or raises, random, numpy and torch go on as if it had not been."""
    for generator in (random, np.random, torch):
        (generator.manual_seed if generator is torch else generator.seed)(5)
    expected = draws()
    for generator in (random, np.random, torch):
        (generator.manual_seed if generator is torch else generator.seed)(5)
    with pytest.raises(OSError, match="full"):
        disturb()
    assert draws() == expected
