"""Optimizers as a training's settings describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from attrs import asdict

from learnforge.plugins.registry import Plugins
from learnforge_kit.training.settings import Train

_OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def make_optimizer(
    groups: Sequence[Mapping[str, Any]], settings: Train, plugins: Plugins
) -> torch.optim.Optimizer:
    """Build the optimizer: a plugin's, if one offers it, else torch's own, fused.

    Parameters with fewer than two axes (biases, normalisation) are not decayed, unless `decay_all` says so.
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
    offered: torch.optim.Optimizer | None = plugins.hook.learnforge_optimizer(
        parameters=prepared, options=asdict(settings)
    )
    if offered is not None:
        return offered
    extra = (
        {"momentum": settings.momentum, "nesterov": settings.nesterov and settings.momentum > 0}
        if settings.optimizer == "sgd"
        else {}
    )
    is_fusible = all(p.device.type in ("cpu", "cuda") for group in prepared for p in group["params"])
    optimizer: torch.optim.Optimizer = _OPTIMIZERS[settings.optimizer](prepared, fused=is_fusible, **extra)
    return optimizer
