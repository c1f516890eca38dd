"""Randomness as a pure function of a seed and names or counters, so that nothing depends on what was
drawn before.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from learnforge.torch_settings import read_settings, restore_settings


def derive(seed: int, *parts: str | int) -> int:
    """Return a seed in [0, 2**63) for one use, such as `derive(seed, "epoch", 3)`; equal arguments,
    equal seed.
    """
    text = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators for a block and put their state back afterwards."""
    with torch.random.fork_rng(_cuda_devices()):
        torch.manual_seed(seed)
        yield


@contextmanager
def preserved() -> Iterator[None]:
    """Put all global generators (random, numpy, torch) and torch's global settings back after a block."""
    python, array, settings = random.getstate(), np.random.get_state(), read_settings()
    try:
        with torch.random.fork_rng(_cuda_devices()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
        restore_settings(settings)


def _cuda_devices() -> list[int]:
    """List all CUDA devices; torch warns where it is to find out by itself that there are several."""
    return list(range(torch.cuda.device_count()))


def _mix(state: Tensor) -> Tensor:
    state = (state ^ _shift_right(state, 30)) * _signed(0xBF58476D1CE4E5B9)
    state = (state ^ _shift_right(state, 27)) * _signed(0x94D049BB133111EB)
    return state ^ _shift_right(state, 31)


def _shift_right(state: Tensor, bits: int) -> Tensor:
    """Shift without the sign: torch's `>>` on int64 fills with the sign bit."""
    return (state >> bits) & ((1 << (64 - bits)) - 1)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >= 1 << 63 else constant
