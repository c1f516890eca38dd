"""Synflow and logsynflow: how much of a signal flows through a fresh network's weights, whatever the data.

    R = 1^T prod_l |theta_l| 1      the output of the network with absolute weights for an input of ones
    synflow    = sum over weights of |dR / d theta * theta|                       (Tanaka, equation 2)
    logsynflow = sum over weights of |log(|dR / d theta| + 1) * theta|            (Cavagnero, equation 3)

Normalisation is left out of the passes, as it would hide the size of the signal. The logarithm keeps deep
networks, whose gradients explode, from drowning all others.

Reference:
    Tanaka, Kunin, Yamins & Ganguli, Pruning neural networks without any data by iteratively conserving
    synaptic flow, 2020. arXiv:2006.05467
    Cavagnero, Robbiano, Caputo & Averta, FreeREA: training-free evolution-based architecture search, 2022.
    arXiv:2207.05135
"""

from __future__ import annotations

import torch
from attrs import frozen
from torch import Tensor, nn

from learnforge import Score, hookimpl

NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
)


@frozen
class Synflow(Score):
    """Synflow. It has no options."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        return sum(float((gradient * weight).abs().sum()) for weight, gradient in _flow(network, images))


@frozen
class LogSynflow(Score):
    """Synflow with the logarithm of gradients. It has no options."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        flow = _flow(network, images)
        return sum(float((torch.log1p(gradient.abs()) * weight).sum()) for weight, gradient in flow)


def _flow(network: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return the weights, made absolute and in double precision, each with its gradient of R."""
    network.cpu().double().eval()  # sums of products of all weights need the range of double precision
    for layer in network.modules():
        if isinstance(layer, NORMALISATIONS):
            layer.forward = _pass  # type: ignore[method-assign, assignment]
    weights = [p for p in network.parameters() if p.ndim > 1]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    network(torch.ones(1, *images.shape[1:], dtype=torch.float64)).sum().backward()
    return [(p.detach(), p.grad) for p in weights if p.grad is not None]


def _pass(images: Tensor) -> Tensor:
    return images


@hookimpl
def learnforge_scores() -> dict[str, type[Score]]:
    return {"synflow": Synflow, "logsynflow": LogSynflow}
