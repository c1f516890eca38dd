"""How many images go through a network at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

MOST_IMAGES, MOST_PIXELS = 512, 2**20
"""Images, and pixels, in a pass where nobody says: what a network holds of an image grows with the pixels."""


def images_at_once(shape: Sequence[int], pixels: int = MOST_PIXELS) -> int:
    """Return how many images [channel, height, width] go through a network at once where nobody says.

    >>> [images_at_once((3, n, n)) for n in (32, 224)]
    [512, 20]
    """
    return max(1, min(MOST_IMAGES, pixels // math.prod(shape[1:])))
