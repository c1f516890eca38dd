"""From the bytes or floats that splits hold to what networks take."""

from __future__ import annotations

import torch
from torch import Tensor

from learnforge.spec import TaskInfo, input_constants


class Normaliser:
    """Turns what splits hold into what networks take: float, each channel with mean 0 and deviation 1 over
    the training split.

    Args:
        task: Gives mean and deviation.
        device: Where the images are.
    """

    def __init__(self, task: TaskInfo, device: torch.device):
        self._mean, self._scale = input_constants(task, device)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise uint8 [batch, channel, height, width], or floats of any shape, to float32."""
        if images.dtype == torch.float32:  # `to` would return the split's own tensor
            return (images - self._mean).mul_(self._scale)
        return images.to(torch.float32).sub_(self._mean).mul_(self._scale)
