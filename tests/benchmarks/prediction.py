"""What predicting costs beside what one would write by hand: time, start-up included, and memory at its peak.

    python tests/benchmarks/prediction.py [--pairs 5] [--photos 1000]

`learnforge predict` names photos by the folder of a ResNet-18 and by its ONNX file; by hand that is torch
with a DataLoader of two workers and torchvision's transforms, and onnxruntime with Pillow and numpy. One
image goes to `artifact.predict` and to the network alone. `learnforge check digits` stands beside `import
torch`. Both sides are measured in alternation; the table has medians, and the median of the pairs' ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, CLASSES = 224, tuple(f"class {number}" for number in range(10))
MEAN, DEVIATION = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
LEARNFORGE = [sys.executable, "-m", "learnforge"]
ONE_IMAGE_CALLS = 40


def make_photos(folder: Path, count: int) -> None:
    """Write JPEG files of 1,024 × 768 pixels with something in them."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        coarse.resize((1024, 768), Image.Resampling.BICUBIC).save(folder / f"{number:05}.jpg", quality=90)


def make_network(name: str) -> None:
    """Write the network as an artifact, as an ONNX file and as a state dict."""
    import torch

    import learnforge as lf
    from learnforge.artifact import from_model
    from learnforge.spec import TaskInfo
    from learnforge_kit import MemorySplit

    folder = Path(name)
    info = TaskInfo("photos", CLASSES, CLASSES, (3, SIDE, SIDE), MEAN, DEVIATION)
    model = lf.load_method("model.torchvision")(name="resnet18")
    start = from_model(model, info)
    network = start.network()
    artifact = start.with_state(network)
    (folder / "own").mkdir()
    artifact.save(folder / "own")
    torch.save(network.state_dict(), folder / "network.pt")
    images = torch.randint(0, 256, (8, 3, SIDE, SIDE), dtype=torch.uint8)
    split = MemorySplit(images, torch.arange(8))
    lf.export(artifact, lf.Task(info, split, split, split), "onnx", run=folder / "exported")


def by_torch(weights: str, photos: str) -> None:
    """Name photos by hand, with torch."""
    import torch
    import torchvision
    from torchvision import transforms

    steps = [transforms.Resize(SIDE), transforms.CenterCrop(SIDE), transforms.ToTensor()]
    prepare = transforms.Compose([*steps, transforms.Normalize(MEAN, DEVIATION)])
    files = sorted(Path(photos).iterdir())

    class Photos(torch.utils.data.Dataset):  # type: ignore[type-arg]
        """The files."""

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> torch.Tensor:
            return prepare(Image.open(files[index]).convert("RGB"))  # type: ignore[no-any-return]

    network = torchvision.models.resnet18(num_classes=len(CLASSES))
    network.load_state_dict(torch.load(weights))
    network.eval()
    loader = torch.utils.data.DataLoader(Photos(), batch_size=32, num_workers=2)
    names = iter(files)
    with torch.inference_mode():
        for images in loader:
            for shares in network(images).softmax(1):
                print(next(names), CLASSES[int(shares.argmax())], float(shares.max()))


def by_onnxruntime(model: str, photos: str) -> None:
    """Name photos by hand, with onnxruntime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    for file in sorted(Path(photos).iterdir()):
        image = Image.open(file).convert("RGB")
        scale = SIDE / min(image.size)
        image = image.resize(tuple(round(side * scale) for side in image.size), Image.Resampling.BILINEAR)
        left, top = ((side - SIDE) // 2 for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + SIDE, top + SIDE)))
        (scores,) = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})[0]
        shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        print(file, CLASSES[int(shares.argmax())], float(shares.max()))


def run(command: list[str]) -> tuple[float, float]:
    """Return the seconds that a process takes, and the mebibytes that it has at its peak."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)  # of this child alone, and of those that it waited for
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return time.perf_counter() - start, used.ru_maxrss / 1024


def compare(
    what: str,
    by_hand: Callable[[], tuple[float, float]],
    ours: Callable[[], tuple[float, float]],
    pairs: int,
    bars: tuple[float, float | None],
) -> None:
    """Print a line of the table: seconds, then mebibytes where there is a bar for them."""
    by_hand(), ours()  # files are read, and sources compiled, once
    found = [(by_hand(), ours()) for _ in range(pairs)]
    for column, (unit, bar) in enumerate(zip(("s", "MiB"), bars, strict=True)):
        if bar is not None:
            sides = [[pair[side][column] for pair in found] for side in (0, 1)]
            ratio = statistics.median(own / hand for hand, own in zip(*sides, strict=True))
            first, second = map(statistics.median, sides)
            print(f"{what + ', ' + unit:34}{first:>10.3f}{second:>10.3f}{ratio:>8.2f}{bar:>6}", flush=True)


def time_one_image(folder: str, pairs: str) -> None:
    """Print what one image takes: `artifact.predict`, and the network that it builds."""
    import torch

    import learnforge as lf

    artifact = lf.load(folder)
    network, image = artifact.network().eval(), torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, DEVIATION))

    def by_hand() -> torch.Tensor:
        with torch.inference_mode():
            return network((image / 255 - mean) / deviation)  # type: ignore[no-any-return]

    def clock(call: Callable[[], object]) -> tuple[float, float]:
        return statistics.median(timeit.repeat(call, number=1, repeat=ONE_IMAGE_CALLS)), 0.0

    compare(
        "one image",
        lambda: clock(by_hand),
        lambda: clock(lambda: artifact.predict(image)),
        int(pairs),
        (1.3, None),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--photos", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = folder / "photos"
        make_photos(photos, given.photos)
        itself = [sys.executable, __file__]
        # in a process of its own: a child counts as its memory what its parent has when it starts
        subprocess.run([*itself, "make", name], check=True, stdout=subprocess.DEVNULL)
        file = folder / "exported" / "export" / "model.onnx"
        print(f"{'':34}{'by hand':>10}{'ours':>10}{'ratio':>8}{'bar':>6}", flush=True)
        predict = [*LEARNFORGE, "predict"]
        compare(
            f"{given.photos} photos, torch",
            lambda: run([*itself, "torch", str(folder / "network.pt"), str(photos)]),
            lambda: run([*predict, str(folder / "own"), str(photos), "--device", "cpu"]),
            given.pairs,
            (1.05, 1.3),
        )
        compare(
            f"{given.photos} photos, ONNX",
            lambda: run([*itself, "onnxruntime", str(file), str(photos)]),
            lambda: run([*predict, str(file), str(photos)]),
            given.pairs,
            (1.3, 1.3),
        )
        subprocess.run([*itself, "one", str(folder / "own"), str(given.pairs)], check=True)
        compare(
            "check digits, import torch",
            lambda: run([sys.executable, "-c", "import torch"]),
            lambda: run([*LEARNFORGE, "check", "digits"]),
            given.pairs,
            (1.8, None),
        )


if __name__ == "__main__":
    parts = {"make": make_network, "one": time_one_image, "torch": by_torch, "onnxruntime": by_onnxruntime}
    part: Callable[..., None] | None = parts.get(sys.argv[1]) if len(sys.argv) > 1 else None
    main() if part is None else part(*sys.argv[2:])
