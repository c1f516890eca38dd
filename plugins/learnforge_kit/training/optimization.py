"""Optimizers as a training's settings describe them, and their steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from learnforge.errors import StageError
from learnforge_kit.training.settings import Train


def make_optimizer(groups: Sequence[Mapping[str, Any]], settings: Train) -> torch.optim.Optimizer:
    """Make the optimizer of a training; torch's AdamW where the settings name none.

    Parameters with fewer than two axes (biases, normalisation) are not decayed, unless `decay_all` says so.

    Args:
        groups: torch parameter groups, `{"params": […], "scale": factor on the learning rate}`.
        settings: Optimizer, learning rate and weight decay.

    Raises:
        StageError: The optimizer cannot train these groups, or what its method makes is none.
    """
    prepared: list[dict[str, Any]] = []
    for group in groups:
        rate = settings.learning_rate * group.get("scale", 1.0)
        trainable = [p for p in group["params"] if p.requires_grad]
        for decays in (True, False):
            members = [p for p in trainable if (p.ndim > 1 or settings.decay_all) == decays]
            if members:
                prepared.append(
                    {"params": members, "lr": rate, "weight_decay": settings.weight_decay * decays}
                )
    if settings.optimizer is None:
        return torch.optim.AdamW(prepared, fused=are_fusible(prepared))
    name = type(settings.optimizer).__name__
    try:
        made = settings.optimizer.make(prepared)
    except ValueError as error:
        raise StageError(f"the optimizer {name} cannot train this: {error}") from error
    if not isinstance(made, torch.optim.Optimizer):
        raise StageError(f"{name}.make must return a torch optimizer, it returned {made!r:.200}")
    return made


def are_fusible(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether torch has fused steps for the parameters of some groups."""
    return all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])


def take_step(optimizer: torch.optim.Optimizer, evaluate: Callable[[bool], Tensor]) -> Tensor:
    """Take a step, for which the optimizer evaluates loss and gradients as often as it needs.

    Args:
        optimizer: The optimizer.
        evaluate: Computes the loss at the weights as they are and leaves the gradients in the parameters; it
            is told whether this is the step's first evaluation.

    Returns:
        The loss before the step, without gradient.

    Raises:
        StageError: The optimizer evaluates nothing.
    """
    losses: list[Tensor] = []

    def closure() -> Any:  # torch says float, and takes a tensor
        with torch.enable_grad():
            optimizer.zero_grad(set_to_none=True)
            loss = evaluate(not losses)
        losses.append(loss.detach())
        return loss

    optimizer.step(closure)
    if not losses:
        name = type(optimizer).__name__
        raise StageError(f"{name}.step must call the closure that it is given, it did not")
    return losses[0]


def generator_states(device: str) -> tuple[Tensor, ...]:
    """Return the states of the generators that a step on a device draws from."""
    return (torch.get_rng_state(), *([torch.cuda.get_rng_state()] if device == "cuda" else []))
