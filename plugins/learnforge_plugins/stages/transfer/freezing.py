"""Frozen means frozen: weights and batch statistics of what a phase does not train."""

from __future__ import annotations

from typing import Any

from torch import nn

from learnforge.errors import StageError
from learnforge.kinds.transfer import Phase


def freeze(network: nn.Module, phase: Phase) -> list[dict[str, Any]]:
    """Freeze what a phase does not train, and return torch parameter groups for the rest, each parameter in
    one group.

    Raises:
        StageError: The phase trains nothing.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        rate = _rate(phase, name)
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault(rate, []).append(parameter)
    if not groups:
        names = ", ".join(name for name, _ in network.named_children())
        raise StageError(
            f"the phase {phase.name!r} trains nothing: no parameter starts with {list(phase.rates)}; parts: "
            f"{names}"
        )
    return [{"params": parameters, "scale": rate} for rate, parameters in groups.items()]


def set_training(network: nn.Module, phase: Phase) -> None:
    """Put a network into training mode, except modules that the phase freezes: their statistics stay.

    A module with parameters is frozen if all of its own are; one with buffers alone, such as a normalisation
    without weights, if the phase has no rate for its name.
    """
    network.train()
    for name, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        has_statistics = not own and any(True for _ in module.buffers(recurse=False))
        if (own and not any(p.requires_grad for p in own)) or (has_statistics and not _rate(phase, name)):
            module.training = False  # not eval(), which would reach its children


def _rate(phase: Phase, name: str) -> float:
    """Return the rate of the longest prefix that fits a name; 0 where none does."""
    fitting = [prefix for prefix in phase.rates if _fits(prefix, name)]
    return phase.rates[max(fitting, key=len)] if fitting else 0.0


def _fits(prefix: str, name: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + ".")
