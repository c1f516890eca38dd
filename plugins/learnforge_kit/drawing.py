"""Random numbers as pure functions of a seed and counters, the same on every device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from learnforge.randomness import derive


def hashed(seed: int, *counters: Tensor) -> Tensor:
    """Hash broadcastable integer counters into uniform integers, the same on every device.

    SplitMix64's finaliser, applied once for each counter.

    Args:
        seed: Seed, in [0, 2**63).
        counters: int64, broadcast against each other.

    Returns:
        int64 in [0, 2**62), of the broadcast shape.

    Reference:
        Steele, Lea & Flood, Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    state = torch.full((), seed, dtype=torch.int64, device=counters[0].device)
    for counter in counters:
        state = _mix(state + _mix(counter * _signed(0x9E3779B97F4A7C15) + _signed(0xD1B54A32D192ED03)))
    return _shift_right(state, 2)


def uniform(seed: int, *counters: Tensor) -> Tensor:
    """Return numbers in [0, 1) that are a pure function of the arguments: float32, of the counters'
    common shape.
    """
    return (hashed(seed, *counters) >> 38).to(torch.float32) / 2**24


def normal(seed: int, *counters: Tensor) -> Tensor:
    """Return standard normal numbers that are a pure function of the arguments, by Box and Muller's formula:
    float32, of the counters' common shape.
    """
    radius = torch.sqrt(-2 * torch.log1p(-uniform(derive(seed, "radius"), *counters)))
    return radius * torch.cos(2 * math.pi * uniform(derive(seed, "angle"), *counters))


def permutation(seed: int, size: int) -> Tensor:
    """Return a random order of `range(size)`: int64 [size], on the CPU."""
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shift_right(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift_right(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shift_right(state, 31)


def _shift_right(state: Tensor, bits: int) -> Tensor:
    """Shift without the sign: torch's `>>` on int64 fills with the sign bit."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
