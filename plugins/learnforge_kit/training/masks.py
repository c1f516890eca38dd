"""Hiding stretches of inputs, as SpecAugment does in spectrograms.

Reference:
    Park, Chan, Zhang, Chiu, Zoph, Cubuk & Le, SpecAugment: a simple data augmentation method for automatic
    speech recognition, 2019. arXiv:1904.08779 (section 2: time and frequency masking)
Differs:
    One mask along each axis; no time warping.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learnforge.randomness import derive
from learnforge_kit.drawing import uniform


def mask_stretches(images: Tensor, indices: Tensor, seed: int, time: float, frequency: float) -> Tensor:
    """Return images with a stretch of columns and one of rows set to 0, the mean of what is normalised; a
    pure function of the arguments.

    Args:
        images: Normalised, [batch, channel, row, column].
        indices: int64 [batch], which image each is.
        seed: Seed of the epoch.
        time: Longest stretch of columns as a share of them, in [0, 1).
        frequency: Longest stretch of rows.
    """
    for axis, share in ((3, time), (2, frequency)):
        if not share:
            continue
        size = images.shape[axis]
        length = uniform(derive(seed, "length", axis), indices) * share * size
        start = uniform(derive(seed, "start", axis), indices) * (size - length)
        places = torch.arange(size, device=images.device)
        is_hidden = (places >= start[:, None]) & (places < (start + length).ceil()[:, None])
        shape = (-1, 1, 1, size) if axis == 3 else (-1, 1, size, 1)
        images = images.masked_fill(is_hidden.view(shape), 0.0)
    return images
