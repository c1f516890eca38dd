"""Pictures for reports: images as text."""

from __future__ import annotations

import base64
import io

import torch
from PIL import Image
from torch import Tensor


def as_png(image: Tensor, longest: int = 96) -> str:
    """Return an image, uint8 [channel, height, width], as PNG in base64, shrunk to a longest side. Of other
    than one or three channels the first is shown, and of floats that one from its least value, in black, to
    its largest. What has no height and width is no picture: "".
    """
    if image.ndim != 3:
        return ""
    if image.is_floating_point():
        low, high = image[:1].aminmax()
        image = ((image[:1] - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    channels = image if image.shape[0] in (1, 3) else image[:1]
    pixels = channels.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((longest, longest))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()
