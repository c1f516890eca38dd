"""Every global setting of torch that a result can depend on, to be looked at and put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import reduce
from typing import Any

import torch

_FLAGS = (
    *("fp32_precision", "quantized.engine", "opt_einsum.enabled", "opt_einsum.strategy"),
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.benchmark_limit", "cudnn.deterministic", "cudnn.allow_tf32"),
    *("cudnn.fp32_precision", "cudnn.conv.fp32_precision", "cudnn.rnn.fp32_precision"),
    *("mkldnn.enabled", "mkldnn.deterministic", "mkldnn.fp32_precision"),
    *("mkldnn.matmul.fp32_precision", "mkldnn.conv.fp32_precision", "mkldnn.rnn.fp32_precision"),
    *("cuda.matmul.allow_tf32", "cuda.matmul.fp32_precision", "cuda.matmul.allow_fp16_accumulation"),
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
    *owners, name = path.split(".")

    def owner() -> Any:
        return reduce(getattr, owners, torch.backends)

    return lambda: getattr(owner(), name), lambda value: setattr(owner(), name, value)


def _algorithms() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_algorithms(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


def _flushes_denormals() -> bool:
    """Compute with the smallest number there is, since torch does not tell."""
    return (torch.full((), 5e-324, dtype=torch.float64, device="cpu") * 1).item() == 0.0


_SETTINGS: Mapping[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the default type": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (torch.get_default_device, _set_device),
    "the gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (_algorithms, _set_algorithms),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the flushing of denormals": (_flushes_denormals, torch.set_flush_denormal),
    "autocast on the CPU": _autocast("cpu"),
    "autocast on CUDA": _autocast("cuda"),
    "the cache of autocast": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    "the precision of matmul": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    **{f"torch.backends.{path}": _flag(path) for path in _FLAGS},  # after the precision, which sets some
}
"""{name: how it is read, and how it is set}."""


def read_settings() -> dict[str, Any]:
    """Return {name: value}; what this torch does not have, or cannot tell, is left out."""
    found = {}
    for name, (read, _) in _SETTINGS.items():
        with suppress(AttributeError, RuntimeError):
            found[name] = read()
    return found


def restore_settings(before: Mapping[str, Any]) -> list[str]:
    """Put settings back, and return the names of those that had changed."""
    changed = _differing(before)
    for name in changed:
        _SETTINGS[name][1](before[name])
    for name in _differing(before) if changed else ():  # what one of them has set in turn
        _SETTINGS[name][1](before[name])
    return changed


def _differing(before: Mapping[str, Any]) -> list[str]:
    now = read_settings()
    return [name for name, value in before.items() if now.get(name) != value]
