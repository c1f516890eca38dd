"""How long until the first batch of a folder of photos, and what do many files take?

    python tests/benchmarks/loading.py PHOTOS [--size 96] [--pairs 5] [--many 100000]

PHOTOS has a folder for each class. Each way is a Python of its own, imports included, and they take turns:

first     learnforge with an empty store: every file decoded, checked, measured, hashed and kept
second    learnforge again
folder    torchvision's ImageFolder, resized and cropped, every image decoded once into one tensor

With `--many` so many small JPEGs are made of the photos, 84 × 84, and read once: by learnforge with an empty
store, again, and by a loop of Pillow into one tensor.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from attrs import frozen
from PIL import Image

OURS = """
import sys, torch
import learnforge as lf
task = lf.load_task("image-folder", root=sys.argv[1], size=int(sys.argv[2]), channels=3, memory_mib=8192)
task.content
next(task.train.batches(torch.randperm(len(task.train)), 64))
"""
FOLDER = """
import sys, torch
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
size = int(sys.argv[2])
found = ImageFolder(sys.argv[1], T.Compose([T.Resize(size), T.CenterCrop(size), T.PILToTensor()]))
images = torch.empty(len(found), 3, size, size, dtype=torch.uint8)
for place in range(len(found)):
    images[place] = found[place][0]
images[torch.randperm(len(images))[:64]]
"""
LOOP = """
import os, sys, numpy as np, torch
from PIL import Image
root, size = sys.argv[1], int(sys.argv[2])
files = [os.path.join(root, c, f) for c in sorted(os.listdir(root)) for f in sorted(os.listdir(os.path.join(root, c)))]
images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
for place, file in enumerate(files):
    with Image.open(file) as image:
        images[place] = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
"""  # noqa: E501


@frozen
class Cost:
    """What a Python took: seconds, seconds of CPU, and most memory in MiB."""

    wall: float
    cpu: float
    memory: float


def measure(code: str, photos: Path, size: int, store: Path) -> Cost:
    """Run code in a Python of its own."""
    words = [sys.executable, "-c", code, str(photos), str(size)]
    start = time.perf_counter()
    process = subprocess.Popen(words, env={**os.environ, "LEARNFORGE_CACHE": str(store)})
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"a way ended with status {status}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def make_many(photos: Path, count: int, folder: Path) -> Path:
    """Write so many JPEGs, 84 × 84, in a hundred classes, made of photos."""
    sources = sorted(photos.rglob("*.jpg"))[::10]
    images = [np.asarray(Image.open(file).convert("RGB").resize((84, 84))) for file in sources]
    for number in range(count):
        file = folder / "many" / f"class {number % 100:03}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.roll(images[number % len(images)], number // len(images), 1)
        Image.fromarray(pixels).save(file, quality=85)
        os.utime(file, (1_600_000_000, 1_600_000_000))  # the store trusts no file of this very moment
    return folder / "many"


def row(name: str, ours: list[Cost], theirs: list[Cost]) -> None:
    """Print the median ratios of two ways over their pairs, and the median cost of the first."""
    ratios = [
        statistics.median(getattr(a, key) / getattr(b, key) for a, b in zip(ours, theirs, strict=True))
        for key in ("wall", "cpu", "memory")
    ]
    own = [statistics.median(getattr(cost, key) for cost in ours) for key in ("wall", "cpu", "memory")]
    print(f"{name:<34}" + "".join(f"{value:>8.2f}" for value in ratios) + "".join(f"{v:>9.1f}" for v in own))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--many", type=int, default=0)
    given = parser.parse_args()
    print(f"{'':<34}{'wall':>8}{'CPU':>8}{'memory':>8}{'s':>9}{'CPU s':>9}{'MiB':>9}")
    with tempfile.TemporaryDirectory() as name:
        folder, store = Path(name), Path(name) / "store"
        compare(given.photos, given.size, FOLDER, "ImageFolder", store, given.pairs)
        if given.many:
            many = make_many(given.photos, given.many, folder)
            compare(many, 84, LOOP, "a loop", store, max(1, given.pairs // 2))


def compare(photos: Path, size: int, other: str, name: str, store: Path, pairs: int) -> None:
    """Measure both starts of learnforge beside another way, in turns."""
    first, second, others = [], [], []
    for _ in range(pairs):
        shutil.rmtree(store, ignore_errors=True)
        first.append(measure(OURS, photos, size, store))
        second.append(measure(OURS, photos, size, store))
        others.append(measure(other, photos, size, store))
    row(f"first start / {name}", first, others)
    row(f"second start / {name}", second, others)


if __name__ == "__main__":
    main()
