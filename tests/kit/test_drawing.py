"""Random numbers are pure functions of a seed and counters."""

from __future__ import annotations

import torch

from learnforge_kit.drawing import _mix, _signed, hashed, permutation

MASK = (1 << 64) - 1


def mix(state):
    """SplitMix64's finaliser in Python's own integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def test_mix_is_splitmix64():
    """The finaliser gives SplitMix64's published first outputs for seed 0."""
    golden = 0x9E3779B97F4A7C15
    for step, expected in ((1, 0xE220A8397B1DCDAF), (2, 0x6E789E6AA1B965F4), (3, 0x06C45D188009454F)):
        state = torch.tensor(_signed((step * golden) & MASK))
        assert int(_mix(state)) & MASK == expected


def test_hashed_agrees_with_whole_numbers():
    """The tensor arithmetic equals the same hash in Python's integers, also for negative counters."""
    counters = [(0, 0), (3, 5), (-1, 7), (2**40, 2**62)]
    first, second = (torch.tensor(column) for column in zip(*counters, strict=True))
    expected = []
    for pair in counters:
        state = 11
        for counter in pair:
            state = mix(state + mix(counter * 0x9E3779B97F4A7C15 + 0xD1B54A32D192ED03 & MASK) & MASK)
        expected.append(state >> 2)
    assert hashed(11, first, second).tolist() == expected


def test_hashed_is_pointwise_and_broadcasts():
    """Each value depends on its own counters alone, whatever stands beside them."""
    rows, columns = torch.arange(4)[:, None], torch.arange(5)[None]
    table = hashed(3, rows, columns)
    assert table.shape == (4, 5)
    assert table[2, 3] == hashed(3, torch.tensor([2]), torch.tensor([3]))[0]
    assert not torch.equal(table, hashed(4, rows, columns))
    assert table[1, 2] != table[2, 1]


def test_hashed_is_uniform():
    """Values lie in [0, 2**62), evenly, and neighbours share no parity."""
    values = hashed(0, torch.arange(20000))
    assert int(values.min()) >= 0
    assert int(values.max()) < 1 << 62
    # standard error of a mean of 20 000 uniform numbers is 0.002, of a share of one half 0.0035
    assert abs(float((values.double() / (1 << 62)).mean()) - 0.5) < 0.008
    assert abs(float((values % 2).double().mean()) - 0.5) < 0.014
    assert abs(float((values[1:] % 2 == values[:-1] % 2).double().mean()) - 0.5) < 0.014


def test_permutation_is_pure():
    """A permutation has every position once, depends on its seed alone, and uses no global generator."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    order = permutation(3, 50)
    assert torch.equal(torch.get_rng_state(), before)
    assert order.sort().values.tolist() == list(range(50))
    assert torch.equal(order, permutation(3, 50))
    assert not torch.equal(order, permutation(4, 50))
