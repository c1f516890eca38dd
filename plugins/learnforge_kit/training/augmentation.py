"""Augmentation with numbered views: which view an image shows in an epoch is a pure function of (seed,
epoch, index).

A random crop out of a padded image has (2 · padding + 1)² positions, a flip doubles them; so an image has
finitely many views, and a view's number says exactly which one it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor

from learnforge.randomness import derive
from learnforge_kit.drawing import hashed


@frozen
class Augmentation:
    """Random crop and horizontal flip, as usual for small images (He et al. 2015, section
    4.2. arXiv:1512.03385).

    Args:
        crop: Zero padding in pixels on each side, out of which the crop is cut; 0 for none.
        flip: Flip half of the images left to right. Wrong for digits and letters.
    """

    crop: int = field(default=0, validator=ge(0))
    flip: bool = False

    @property
    def views(self) -> int:
        """Number of different views of an image: 1 where nothing is augmented."""
        return (2 * self.crop + 1) ** 2 * (2 if self.flip else 1)

    def draw(self, seed: int, epoch: int, indices: Tensor) -> Tensor:
        """Return the view of each image in an epoch: int64 [batch] in [0, views), on `indices`' device."""
        if self.views == 1:
            return torch.zeros_like(indices)
        return hashed(derive(seed, "views", epoch), indices) % self.views

    def show(self, images: Tensor, views: Tensor) -> Tensor:
        """Cut the numbered views out of images.

        Args:
            images: [batch, channel, height, width], any type.
            views: int64 [batch].

        Returns:
            The views, of the shape and type of `images`.
        """
        if self.views == 1:
            return images
        height, width = images.shape[2:]
        flips = views % 2 if self.flip else torch.zeros_like(views)
        offsets = views // 2 if self.flip else views
        side = 2 * self.crop + 1
        rows = (offsets // side)[:, None] + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device).expand(len(views), width)
        columns = torch.where(flips[:, None] == 1, width - 1 - columns, columns) + (offsets % side)[:, None]
        padded = F.pad(images, [self.crop] * 4)
        batch = torch.arange(len(views), device=images.device)[:, None, None]
        # indexing with the channel axis last in the index order gives [batch, height, width, channel]
        return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
