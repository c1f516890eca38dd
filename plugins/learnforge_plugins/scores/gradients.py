"""Scores from the gradient of the loss of one batch: its norm, and SNIP.

    L = cross-entropy; the squared error for numbers, the binary cross-entropy for several labels
    grad-norm = sum over tensors of ||dL / d theta||_2                   (Abdelfattah, section 3.1)
    snip      = sum over weights of |dL / d theta * theta|               (Lee, equation 6, unnormalised)

Reference:
    Abdelfattah, Mehrotra, Dudziak & Lane, Zero-cost proxies for lightweight NAS, 2021. arXiv:2101.08134
    Lee, Ajanthan & Torr, SNIP: single-shot network pruning based on connection sensitivity, 2019.
    arXiv:1810.02340
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from learnforge import Score, hookimpl


@frozen
class GradientNorm(Score):
    """The summed norms of the gradients of the cross-entropy. It has no options."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        gradients = [p.grad for p in _differentiated(network, images, labels) if p.grad is not None]
        return sum(float(gradient.norm()) for gradient in gradients)


@frozen
class SNIP(Score):
    """Connection sensitivity of all weights. It has no options."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        weights = [p for p in _differentiated(network, images, labels) if p.ndim > 1 and p.grad is not None]
        return sum(float((p.grad * p.detach()).abs().sum()) for p in weights if p.grad is not None)


def _differentiated(network: nn.Module, images: Tensor, labels: Tensor) -> list[nn.Parameter]:
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    if labels.is_floating_point():  # of several labels all are 0 or 1
        has_numbers = bool(((labels != 0) & (labels != 1)).any())
        loss = F.mse_loss if has_numbers else F.binary_cross_entropy_with_logits
    loss(network(images), labels).backward()
    return list(network.parameters())


@hookimpl
def learnforge_scores() -> dict[str, type[Score]]:
    return {"grad-norm": GradientNorm, "snip": SNIP}
