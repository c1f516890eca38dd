"""Batch normalisation: finding its layers, and measuring their running statistics on other images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from learnforge.errors import StageError


def find_normalisations(network: nn.Module) -> list[_BatchNorm]:
    """Return the layers that keep running statistics, in the order in which they are defined."""
    found = [layer for layer in network.modules() if isinstance(layer, _BatchNorm)]
    return [layer for layer in found if layer.running_mean is not None]


def statistics_of(layer: nn.Module) -> list[Tensor]:
    """Return what a layer itself measures in training and goes by afterwards, as a batch normalisation does,
    and EvoNorm's batch kinds; a frozen one, whose scale is no parameter either, measures nothing.
    """
    buffers = dict(layer.named_buffers(recurse=False))
    return [b for name, b in buffers.items() if name.startswith("running_") and "weight" not in buffers]


def measure_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace all running statistics by means over images, batch by batch, where the layers below already use
    the batch's own; everything else, dropout too, is in eval mode meanwhile and afterwards.

    Args:
        network: The network; changed in place.
        batches: Normalised images, float [batch, channel, height, width]; single images are passed over.

    Raises:
        StageError: There is no batch of two images or more.
    """
    layers = find_normalisations(network)
    kept = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.train()
    seen = 0
    with torch.no_grad():
        for images in batches:
            if len(images) > 1:
                seen += len(images)
                for layer in layers:
                    layer.momentum = len(images) / seen  # each batch counts by its images
                network(images)
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum
    network.eval()
    if not seen:
        raise StageError("batch statistics need batches of at least two images, there is none")
