"""Randomness as a pure function of a seed and names, so that nothing depends on what was drawn before; and
what is global in torch, to be looked at and put back.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch


def derive(seed: int, *parts: str | int) -> int:
    """Return a seed in [0, 2**63) for one use, such as `derive(seed, "epoch", 3)`; equal arguments,
    equal seed.
    """
    text = "/".join([str(seed), *(f"{type(part).__name__}:{part}" for part in parts)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


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


def uncompiled() -> AbstractContextManager[object]:
    """Let networks that `torch.compile` wrapped run as they were written within a block.

    Where the compiler is not imported nothing is compiled, and its import takes as long as that of torch.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _cuda_devices() -> list[int]:
    """List all CUDA devices; torch warns where it is to find out by itself that there are several."""
    return list(range(torch.cuda.device_count()))


_FLAGS = (
    *("fp32_precision", "quantized.engine", "opt_einsum.enabled", "opt_einsum.strategy"),
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.benchmark_limit", "cudnn.deterministic"),
    *("cudnn.fp32_precision", "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision"),
    *("mkldnn.enabled", "mkldnn.deterministic", "mkldnn.fp32_precision"),
    *("mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
    *("cuda.matmul.fp32_precision", "cuda.matmul.allow_fp16_accumulation"),
    # newer ones say the same by `fp32_precision`, and warn of these names
    *(() if hasattr(torch.backends, "fp32_precision") else ("cudnn.allow_tf32", "cuda.matmul.allow_tf32")),
    *(f"cuda.matmul.allow_{kind}_reduced_precision_reduction" for kind in ("fp16", "bf16")),
)
"""Attributes of `torch.backends`."""


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device == torch.device("cpu") else device)  # none at all is faster


def _autocast(device: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    def write(value: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, value[0])
        torch.set_autocast_dtype(device, value[1])

    return lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), write


def _flag(path: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    owners, _, name = f"backends.{path}".rpartition(".")

    def write(value: Any) -> None:
        setattr(attrgetter(owners)(torch), name, value)

    return partial(attrgetter(path), torch.backends), write


def _attention(kind: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    cuda = torch.backends.cuda  # whose flags hold on the CPU too
    return getattr(cuda, f"{kind}_sdp_enabled"), getattr(cuda, f"enable_{kind}_sdp")


def _algorithms() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_algorithms(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


@cache
def _hooks() -> list[dict[int, Any]]:
    """List the places of hooks that all modules share, which torch has no way to read."""
    shared = vars(torch.nn.modules.module).items()
    return [place for name, place in shared if name.startswith("_global_") and isinstance(place, dict)]


def _set_hooks(value: Sequence[Mapping[int, Any]]) -> None:
    for place, before in zip(_hooks(), value, strict=True):
        place.clear()
        place.update(before)


def _flushes_denormals() -> bool:
    """Halve the smallest normal number, since torch does not tell; it is the thread's own setting."""
    return torch.finfo(torch.float64).tiny / 2 == 0.0


_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the default type": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, _set_device),
    "the gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (_algorithms, _set_algorithms),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the flushing of denormals": (_flushes_denormals, torch.set_flush_denormal),
    "hooks of all modules": (lambda: [dict(place) for place in _hooks()], _set_hooks),
    "autocast on the CPU": _autocast("cpu"),
    "autocast on CUDA": _autocast("cuda"),
    "the cache of autocast": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    "the precision of matmul": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    **{f"{kind} attention": _attention(kind) for kind in ("flash", "mem_efficient", "math", "cudnn")},
    **{f"torch.backends.{path}": _flag(path) for path in _FLAGS},  # after the precision, which sets some
}
"""{name: how it is read, and how it is set}."""


FRESH = {"the default type": torch.float32, "the gradient mode": True}
"""What the first to import torch finds."""


def read_settings() -> dict[str, Any]:
    """Return {name: value}; what this torch does not have, or cannot tell, is left out."""
    found, missing = {}, suppress(AttributeError, RuntimeError)  # made once: this runs twice in each trial
    for name, (read, _) in _SETTINGS.items():
        with missing:
            found[name] = read()
    return found


def restore_settings(before: Mapping[str, Any]) -> list[str]:
    """Put settings back, and return the names of those that had changed."""
    now = read_settings()
    changed = [name for name, value in before.items() if now.get(name) != value]
    for name in (*changed, *_SETTINGS) if changed else ():  # then all, since one may set another
        with suppress(RuntimeError, KeyError):  # torch refuses where somebody has frozen its flags
            _SETTINGS[name][1](before[name])
    return changed
