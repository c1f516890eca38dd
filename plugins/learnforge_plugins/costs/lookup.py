"""A cost from a table of layers: what each layer takes on some device, added up.

A network's cost is the sum over its layers of what a JSON file says of each, without running anything, and of
what the file says of a call, if it does:

    {"unit": "ms", "overhead": 0.01, "layers": {"Conv2d 3x32x32 > 16x32x32 k3x3 s1x1 g1": 0.21,
    "ReLU 16x32x32 > 16x32x32": 0.02}}

`learnforge describe space NAME --layers FILE` writes such a file, with the layers of random designs as they
were timed where it runs; a script by `learnforge profile` writes one on the device.

Reference:
    Cai, Zhu & Han, ProxylessNAS: direct neural architecture search on target task and hardware, 2019
    (appendix B). arXiv:1812.00332
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from attrs import field, frozen
from torch import nn

from learnforge import CostMeter, TaskInfo, fingerprint, hookimpl
from learnforge_kit import layer_signatures


@frozen
class Lookup(CostMeter):
    """Adds up what a file says of a network's layers, and of a call.

    Args:
        file: JSON file with `layers`, {signature: cost}, and perhaps `overhead`, the cost of a call.
        name: TOML key `label`: what objectives and limits call the cost.
        missing: Cost of a layer that the file does not know, from 0; by default a design with such a layer
            is refused.
    """

    file: Path
    name: str = field(default="lookup", metadata={"key": "label"})
    missing: float | None = field(default=None)

    @missing.validator
    def _check_missing(self, attribute: Any, value: float | None) -> None:
        if value is not None and value < 0:
            raise ValueError(f"'missing' must be at least 0, got {value}")

    @property
    def label(self) -> str:
        return self.name

    def content(self) -> str:
        return fingerprint(_read(self.file, *_state(self.file)))

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        known, overhead = _read(self.file, *_state(self.file))
        total = overhead
        for signature in layer_signatures(network, task):
            cost = known.get(signature, self.missing)
            if cost is None:
                raise ValueError(f"{self.file} must know the layer {signature!r}; time it, or set `missing`")
            total += cost
        return total


def _state(file: Path) -> tuple[int, int]:
    """Tell one version of a file from another."""
    try:
        found = file.stat()
    except OSError as error:
        raise ValueError(
            f"{file.absolute()} must be a JSON file with layers, but {error.strerror}; a path is relative to "
            "the folder that learnforge is called in"
        ) from error
    return found.st_mtime_ns, found.st_size


@functools.lru_cache(maxsize=16)
def _read(file: Path, changed: int, size: int) -> tuple[dict[str, float], float]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        layers = {str(signature): float(cost) for signature, cost in found["layers"].items()}
        return layers, float(found.get("overhead", 0.0))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{file} must be a JSON file with "layers": {{signature: number}}, but '
            f"{type(error).__name__}: {error}"
        ) from error


@hookimpl
def learnforge_costs() -> dict[str, type[CostMeter]]:
    return {"lookup": Lookup}
