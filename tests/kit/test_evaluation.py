"""Calibration: bins and their error by a plain loop, and the temperature against a search."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from learnforge import TaskInfo
from learnforge_kit import MemorySplit, measure_channels
from learnforge_kit.training.evaluation import calibration, fit_temperature, predict


def scores(count: int, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of labels that are drawn from their softmax, and then made sharper."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, 4, generator=generator)
    labels = torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()
    return logits * sharpness, labels


def test_calibration_is_that_of_the_definition() -> None:
    """Bins are (0, 1/15], (1/15, 2/15], …; by a plain loop."""
    logits, labels = scores(500, 2.0)
    confidence, predicted = logits.double().softmax(1).max(1)
    error, bins = 0.0, []
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            right = float((predicted == labels)[inside].double().mean())
            mean = float(confidence[inside].mean())
            bins.append((mean, right, int(inside.sum())))
            error += abs(mean - right) * int(inside.sum()) / 500
    found = calibration(logits, labels)
    assert found.error == pytest.approx(error)
    assert [b[2] for b in found.bins] == [b[2] for b in bins]
    for own, wanted in zip(found.bins, bins, strict=True):
        assert own == pytest.approx(wanted)


def test_scores_of_their_own_softmax_are_calibrated() -> None:
    """Labels drawn from the softmax give a small error; twice as sharp scores a large one."""
    assert calibration(*scores(20000, 1.0)).error < 0.02
    assert calibration(*scores(20000, 2.0)).error > 0.08


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_sharpness(sharpness: float) -> None:
    """It is about what the scores were multiplied by, and no other has a lower cross-entropy."""
    logits, labels = scores(20000, sharpness)
    found = fit_temperature(logits, labels)
    assert found is not None
    assert found == pytest.approx(sharpness, rel=0.05)
    best = float(F.cross_entropy(logits.double() / found, labels))
    for other in (0.97, 1.03):
        assert float(F.cross_entropy(logits.double() / (found * other), labels)) > best


def test_there_is_not_always_a_temperature() -> None:
    """Scores that are always right, always wrong, or not finite have no best one."""
    logits = torch.eye(3)
    for margin in (0.1, 1, 4, 9, 100):
        assert fit_temperature(margin * logits, torch.arange(3)) is None
    assert fit_temperature(logits, torch.tensor([1, 2, 0])) is None
    assert fit_temperature(logits * float("nan"), torch.arange(3)) is None


def test_of_many_images_some_are_looked_at() -> None:
    """Evenly chosen, with nearly the same result."""
    logits, labels = scores(20000, 2.0)
    assert fit_temperature(logits, labels, most=5000) == fit_temperature(logits[::4], labels[::4])


def test_passes_are_bounded_by_pixels() -> None:
    """Large images go through a network in small batches, unless the caller says how many."""
    seen: list[int] = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return torch.zeros(len(images), 2)

    def passes(side: int, batch_size: int | None = None) -> list[int]:
        seen.clear()
        info = TaskInfo("t", ("a", "b"), ("a", "b"), (1, side, side), (0.0,), (1.0,))
        images = torch.zeros(100, 1, side, side, dtype=torch.uint8)
        predict(network, MemorySplit(images, torch.zeros(100, dtype=torch.int64)), info, batch_size)
        return list(seen)

    assert passes(32) == [100]
    assert passes(160) == [40, 40, 20]
    assert passes(160, 64) == [64, 36]


def test_bytes_are_counted_exactly() -> None:
    """Mean and deviation as in double precision, also beyond the 2^24 of one value that float32 can count."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (600, 3, 8, 8), dtype=torch.uint8, generator=generator)
    shares = images.double() / 255
    mean, std = measure_channels(images)
    assert mean == pytest.approx(shares.mean((0, 2, 3)).tolist())
    assert std == pytest.approx(shares.std((0, 2, 3), correction=0).tolist())
    plain = torch.full((3, 1, 2, 2), 9, dtype=torch.uint8)
    assert measure_channels(plain) == (pytest.approx((9 / 255,)), (1.0,))
    many = torch.zeros(1100, 1, 128, 128, dtype=torch.uint8)
    many[0, 0, 0, :7] = many[300, 0, 0, :7] = many[600, 0, 0, :7] = many[900, 0, 0, :7] = 255
    assert measure_channels(many)[0] == (28 / many.numel(),)
