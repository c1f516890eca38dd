"""Numbered views: each is a plain crop and flip; which one depends on seed, epoch and index."""

from __future__ import annotations

import pytest
import torch
from attrs import evolve

from learnforge_kit.training.augmentation import Augmentation

BOTH = Augmentation(crop=4, flip=True)


def naive(image, crop, row, column, is_flipped):
    """Pad, cut and flip one image pixel by pixel."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                source_y, source_x = y + row - crop, (width - 1 - x if is_flipped else x) + column - crop
                if 0 <= source_y < height and 0 <= source_x < width:
                    result[c, y, x] = image[c, source_y, source_x]
    return result


@pytest.mark.parametrize(
    ("crop", "flip", "views"), [(0, False, 1), (0, True, 2), (1, False, 9), (4, False, 81), (4, True, 162)]
)
def test_number_of_views(crop, flip, views):
    """A crop has (2 · padding + 1)² positions, and a flip doubles them: 162 for 4 pixels and a flip."""
    assert Augmentation(crop, flip).views == views


@pytest.mark.parametrize(("crop", "flip"), [(1, True), (2, False), (0, True)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_each_view_is_a_plain_crop_and_flip(crop, flip, dtype):
    """Every view of an image that is not square equals the crop of the padded image, then flipped."""
    augmentation = Augmentation(crop, flip)
    image = torch.arange(1, 2 * 3 * 5 + 1).view(2, 3, 5).to(dtype)
    views = torch.arange(augmentation.views)
    shown = augmentation.show(image.expand(len(views), -1, -1, -1), views)
    assert shown.shape == (len(views), 2, 3, 5)
    assert shown.dtype == dtype
    side = 2 * crop + 1
    for view in views.tolist():
        offset = view // 2 if flip else view
        expected = naive(image, crop, offset // side, offset % side, flip and view % 2 == 1)
        assert torch.equal(shown[view], expected), view


def test_views_are_all_different():
    """No two numbers show the same picture."""
    image = torch.randint(1, 255, (1, 1, 9, 9), generator=torch.Generator().manual_seed(0))
    shown = BOTH.show(image.expand(162, -1, -1, -1), torch.arange(162))
    assert len({tuple(s.flatten().tolist()) for s in shown}) == 162


def test_identity_view():
    """The middle crop without a flip is the image itself: view 80 of 162."""
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(BOTH.show(images, torch.tensor([80, 80])), images)
    assert torch.equal(BOTH.show(images, torch.tensor([81, 81])), images.flip(3))


def test_nothing_to_augment_costs_nothing():
    """Without crop and flip the images pass as they are, all as view 0."""
    images = torch.rand(2, 3, 8, 8)
    assert Augmentation().show(images, torch.zeros(2, dtype=torch.int64)) is images
    assert Augmentation().draw(0, 0, torch.tensor([4, 2])).tolist() == [0, 0]


def test_view_is_a_pure_function_of_seed_epoch_and_index():
    """An image's view is the same in any batch and order, and another for another seed, epoch or index."""
    indices = torch.arange(100)
    views = BOTH.draw(1, 2, indices)
    order = torch.randperm(100)
    assert torch.equal(BOTH.draw(1, 2, order), views[order])
    assert all(BOTH.draw(1, 2, indices[i : i + 1])[0] == views[i] for i in (0, 7, 99))
    assert (BOTH.draw(1, 3, indices) != views).sum() > 80
    assert (BOTH.draw(2, 2, indices) != views).sum() > 80


def test_views_are_drawn_evenly():
    """Every view comes up, about equally often; half are flipped."""
    views = BOTH.draw(0, 0, torch.arange(32400))
    counts = torch.bincount(views, minlength=162)
    assert len(counts) == 162
    # 200 expected of each; six standard deviations of the count are 85
    assert 115 < int(counts.min()) <= int(counts.max()) < 285
    assert abs(float((views % 2).double().mean()) - 0.5) < 0.015


def test_negative_crop_is_refused():
    """A crop below 0 is refused by name."""
    with pytest.raises(ValueError, match="'crop' must be >= 0: -1"):
        evolve(BOTH, crop=-1)
