"""Tell what is in images: python run_model.py IMAGE ..."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

MANUAL = json.loads(Path(__file__).with_name("model.json").read_text("utf-8"))
FILE = str(Path(__file__).with_name(MANUAL["file"]))


# runner
def score(images: Any) -> Any:
    raise NotImplementedError("the exporter of the file says how it is run")


# end of runner


def read(path: str) -> Any:
    channels, height, width = MANUAL["input"]["shape"]
    image: Any = Image.open(path, formats=("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"))
    with contextlib.suppress(Exception):  # damaged metadata leave it as it is
        ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        is_wide = image.mode.startswith("I;16") or (image.mode == "I" and values.max() > 255)
        top = 65535 if is_wide else 1 if image.mode == "F" and values.max() <= 1 else 255
        image = Image.fromarray((values * (255 / top)).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("L" if channels == 1 else "RGB")
    scale = max(height / image.height, width / image.width)
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    across, down = image.width / size[0], image.height / size[1]
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box), dtype=np.uint8)
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)[None].copy()


def main(paths: list[str]) -> int:
    if not paths:
        sys.exit("usage: python run_model.py IMAGE ...")
    is_all = True
    for path in paths:
        try:
            pixels = read(path)
        except (OSError, SyntaxError, ValueError) as error:
            print(f"{path} cannot be read as an image: {error}", file=sys.stderr)
            is_all = False
            continue
        scores = score(pixels).astype(np.float64)
        chances = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        name = path + " " if len(paths) > 1 else ""
        print(f"{name}{MANUAL['classes'][int(chances.argmax())]} {chances.max():.4f}")
    return int(not is_all)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
