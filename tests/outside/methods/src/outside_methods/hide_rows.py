"""A hook with options: hides the first rows of every training image."""

from __future__ import annotations

from attrs import evolve, field, frozen
from attrs.validators import ge

from learnforge import Batch, hookimpl


@frozen
class HideRows:
    """Hides the first rows of every training image.

    Args:
        rows: How many, from 0.
    """

    rows: int = field(default=1, validator=ge(0))

    @hookimpl
    def learnforge_batch(self, batch: Batch) -> Batch:
        """Make the rows black."""
        images = batch.images.clone()
        images[:, :, : self.rows] = 0
        return evolve(batch, images=images)
