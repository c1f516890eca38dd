"""Which engine computes: all give the same numbers to rounding, and which is fastest depends on the network,
the episodes and the machine. So they are tried.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from learnforge.errors import StageError
from learnforge.kinds.seen.engine import Engine, Rules
from learnforge_kit.engines.engine import NetworkEngine
from learnforge_kit.engines.normalisation import Policy

_HOMES = {"loop": "LoopEngine", "vmap": "VmapEngine", "chain": "ChainEngine"}


class _Engines(Mapping[str, type[NetworkEngine]]):
    """The engines by name; one is imported when it is asked for."""

    def __getitem__(self, name: str) -> type[NetworkEngine]:
        engine: type[NetworkEngine] = getattr(
            importlib.import_module(f"learnforge_kit.engines.{name}"), _HOMES[name]
        )
        return engine

    def __iter__(self) -> Iterator[str]:
        return iter(_HOMES)

    def __len__(self) -> int:
        return len(_HOMES)


ENGINES = _Engines()
TRIES = 3
"""Timed calls of each engine; the fastest counts, since others were disturbed."""


def time_engines(
    network: nn.Module, policy: Policy, rules: Rules, work: Callable[[Engine], Any]
) -> dict[str, float]:
    """Return the seconds that each engine takes for some work; those that cannot do it are left out.

    Args:
        network: The network, on its device.
        policy: Whose batch statistics normalise the query.
        rules: Losses and predictions of a task.
        work: What is timed; the first call of each engine is a trial that does not count.

    Raises:
        Exception: What the work raised with the loop, which can do all that any engine can.
    """
    found = {}
    for name, cls in ENGINES.items():
        try:
            engine = cls(network, policy, rules)
            work(engine)
            found[name] = min(_timed(work, engine) for _ in range(TRIES))
        except (StageError, RuntimeError):  # no chain; an operator without a rule for vmap; out of memory
            if name == "loop":
                raise
    return found


def _timed(work: Callable[[Engine], Any], engine: Engine) -> float:
    start = time.perf_counter()
    work(engine)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
