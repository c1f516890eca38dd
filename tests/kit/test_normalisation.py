"""Batch statistics: measured on other images, everything else left alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from learnforge import StageError
from learnforge_kit.networks.normalisation import find_normalisations, measure_statistics


def test_only_layers_with_running_statistics_are_found() -> None:
    """Layers that always use the batch's statistics, and other normalisations, do not count."""
    network = nn.Sequential(
        nn.BatchNorm2d(1), nn.BatchNorm2d(1, track_running_stats=False), nn.GroupNorm(1, 1), nn.BatchNorm1d(2)
    )
    assert find_normalisations(network) == [network[0], network[3]]


def test_statistics_are_the_mean_over_images() -> None:
    """(0, 2) and (4, 8) have means 1 and 6 and variances 2 and 8; a single image is passed over, and a batch
    of four counts twice as much as one of two.
    """
    network = nn.Sequential(nn.BatchNorm1d(1, momentum=0.3), nn.Dropout(0.5))
    batches = [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]]), torch.tensor([[100.0]])]
    network.train()
    measure_statistics(network, batches)
    layer = network[0]
    assert isinstance(layer, nn.BatchNorm1d)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    assert layer.running_mean.tolist() == [3.5]
    assert layer.running_var.tolist() == [5.0]
    assert layer.momentum == 0.3
    assert not any(module.training for module in network.modules())
    measure_statistics(network, [torch.tensor([[0.0], [2.0]]), torch.tensor([[4.0], [8.0]] * 2)])
    assert layer.running_mean.item() == pytest.approx((1 + 2 * 6) / 3)
    with pytest.raises(StageError, match="batch statistics need batches of at least two images"):
        measure_statistics(network, [torch.tensor([[0.0]])])


def test_layers_behind_see_what_a_training_pass_puts_out() -> None:
    """A second layer gets images normalised by the first one's batch, so its mean is 0 and variance 2 for two
    images.
    """
    network = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    measure_statistics(network, [torch.tensor([[10.0], [14.0]])])
    assert network[1].running_mean.abs().item() < 1e-6  # type: ignore[union-attr, operator]
    assert abs(network[1].running_var.item() - 2.0) < 1e-4  # type: ignore[union-attr, operator]
