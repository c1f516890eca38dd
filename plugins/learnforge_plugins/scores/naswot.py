"""NASWOT: how differently a fresh network's rectifiers treat the images of a batch.

    s = log |det K|,  K[i, j] = N - (number of rectifiers that are on for one of images i and j and off for
    the other)

Each image has a code of N bits, one for each rectifier; codes that differ are easy to tell apart by what
follows (section 3).

Reference:
    Mellor, Turner, Storkey & Crowley, Neural architecture search without training, 2021. arXiv:2006.04647
Differs:
    K is taken as (K + K_off) of the authors' code, each bit as on or off. Any activation counts as a
    rectifier by the sign of what it is given.
"""

from __future__ import annotations

from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from learnforge import Score, hookimpl

RECTIFIERS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Softplus,
    nn.Hardtanh,
    nn.Tanh,
    nn.Sigmoid,
)


@frozen
class NASWOT(Score):
    """NASWOT. It has no options."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        kernel = torch.zeros(len(images), len(images), dtype=torch.float64)

        def note(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            code = (inputs[0].flatten(1) > 0).cpu().double()  # before the layer runs, which may be in place
            agreement = code @ code.T + (1.0 - code) @ (1.0 - code).T
            kernel.add_(agreement)

        hooks = [
            layer.register_forward_pre_hook(note)
            for layer in network.modules()
            if isinstance(layer, RECTIFIERS)
        ]
        with torch.no_grad():
            network(images)
        for hook in hooks:
            hook.remove()
        return float(torch.linalg.slogdet(kernel).logabsdet)


@hookimpl
def learnforge_scores() -> dict[str, type[Score]]:
    return {"naswot": NASWOT}
