"""A plugin file with hooks that have options; `learnforge run digits --plugin docs/hook_with_options.py`."""

from __future__ import annotations

from attrs import evolve, field, frozen
from attrs.validators import ge

from learnforge import Batch, hookimpl


@hookimpl
@frozen
class HideRows:
    """Hides the first rows of every training image.

    Args:
        rows: How many, from 0.
    """

    rows: int = field(default=1, validator=ge(0))

    @hookimpl
    def learnforge_batch(self, batch: Batch) -> Batch:
        images = batch.images.clone()
        images[:, :, : self.rows] = 0
        return evolve(batch, images=images)
