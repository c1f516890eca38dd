"""Images from files: finding and opening them, bringing any of them to one size and number of channels."""

from __future__ import annotations

import inspect
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from learnforge.errors import TaskError
from learnforge.files import require_regular
from learnforge_kit.data.passes import MOST_PIXELS, images_at_once

if TYPE_CHECKING:  # torch is imported where it is used: an ONNX file names images without it
    from numpy.typing import NDArray
    from torch import Tensor

    from learnforge_kit.data.splits import MemorySplit

ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
"""Endings of files that are taken for images."""

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Formats that are read, as Pillow names them. It knows others, some of which call further programs."""


def find_images(paths: Sequence[Path]) -> list[Path]:
    """List image files: those named, and those in named folders, see `images_inside`.

    Raises:
        TaskError: A path is not there, or there is no image at all.
    """
    found: list[Path] = []
    for path in paths:
        if is_there(path) and path.is_dir():
            found += images_inside(path)
        elif is_there(path):
            found.append(path)
        else:
            raise TaskError(f"{path} is not there")
    if not found:
        raise TaskError(
            f"there is no image in {', '.join(map(str, paths))}; endings: {', '.join(sorted(ENDINGS))}"
        )
    return list(dict.fromkeys(found))


def images_inside(folder: Path) -> list[Path]:
    """List the image files in a folder at any depth, sorted by name; a system's own files are passed over."""
    return sorted(file for file in files_inside(folder) if file.suffix.lower() in ENDINGS)


def files_inside(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder at any depth. Links to folders are followed, but for one that leads back to
    a folder around it; a system's own files are passed over.
    """
    above = {folder: frozenset({folder.resolve(), *folder.resolve().parents})}
    for top, folders, names in os.walk(folder, followlinks=True):
        place = Path(top)
        around = above[place]
        inner = {place / name: (place / name).resolve() for name in folders if not _is_litter(name)}
        above |= {path: around | {real} for path, real in inner.items() if real not in around}
        folders[:] = [path.name for path in inner if path in above]
        yield from (place / name for name in names if not _is_litter(name))


def class_folders(root: Path) -> list[Path]:
    """List the folders in a folder, sorted by name; a system's own folders are no classes.

    Raises:
        TaskError: A name is no UTF-8, and cannot be written down as a class's.
    """
    folders = [path for path in root.iterdir() if path.is_dir() and not _is_litter(path.name)]
    around = {root.resolve(), *root.resolve().parents}
    folders = [path for path in folders if path.resolve() not in around]  # links back
    for path in folders:
        if not is_text(path.name):
            raise TaskError(f"names of class folders must be UTF-8, {os.fsencode(path)!r} is not; rename it")
    return sorted(folders)


def is_text(name: str) -> bool:
    """Tell whether a file's name can be written down: on Linux it may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def decode_image(file: Path, size: int, channels: int) -> Tensor:
    """Read an image file into uint8 [channel, size, size]: upright as its EXIF orientation says, the shorter
    side resized, the middle cut out.

    Raises:
        TaskError: The file cannot be decoded; its name is in the text.
    """
    import torch

    return torch.from_numpy(decode_pixels(file, size, channels))


def decode_pixels(file: Path, size: int, channels: int) -> NDArray[np.uint8]:
    """Read an image file as `decode_image` does, into an array of numpy's."""
    pixels = np.asarray(open_square(file, size, channels)[0])
    return pixels.reshape(size, size, channels).transpose(2, 0, 1).copy()


Head = tuple[int, int, bool]
"""Width and height of an image file, and whether it is grey."""


def read_heads(files: Sequence[Path]) -> set[Head]:
    """Return the heads of image files; those that cannot be read are passed over."""
    heads = set()
    for file in files:
        with suppress(OSError, SyntaxError, ValueError, TaskError, Image.DecompressionBombError):
            require_file(file)
            with Image.open(file, formats=FORMATS) as image:
                heads.add(_head(image))
    return heads


def _head(image: Image.Image) -> Head:
    return image.width, image.height, image.mode in ("1", "L", "LA", "I", "I;16", "I;16B", "F")


def open_square(file: Path, size: int, channels: int) -> tuple[Image.Image, Head]:
    """Read an image file as `decode_image` does. A JPEG of four times the size or more is decoded at a
    half, a quarter or an eighth of its own, which leaves twice the size.

    Returns:
        The image, and the head of the file.

    Raises:
        TaskError: The file cannot be decoded; its name is in the text.
    """
    require_file(file)
    try:
        with Image.open(file, formats=FORMATS) as opened:
            head = _head(opened)
            if min(opened.size) >= 4 * size:
                opened.draft(None, (2 * size, 2 * size))
            image = _eight_bits(_upright(opened)).convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError as error:
        raise TaskError(f"{file} cannot be read as an image: it has no known format") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise TaskError(f"{file} cannot be read as an image: {error}") from error
    if image.size == (size, size):
        return image, head
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    across, down = image.width / width, image.height / height
    # only the middle is made: of an image of 1 × 20,000 pixels the whole would have gigabytes
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    return image.resize((size, size), Image.Resampling.BILINEAR, box), head


def require_file(file: Path) -> None:
    """Refuse what is no regular file: reading a named pipe waits for ever.

    Raises:
        TaskError: It is none.
    """
    try:
        require_regular(file)
    except OSError as error:
        raise TaskError(f"{file} cannot be read as an image: {error.strerror}") from error


def _upright(image: Image.Image) -> Image.Image:
    """Turn a photo as its EXIF orientation says; as it is where that cannot be read."""
    if image.format == "JPEG" and image.info.keys().isdisjoint({"exif", "xmp"}):
        return image
    with suppress(Exception):  # Pillow raises whatever its parser meets in damaged metadata
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring 16-bit grey and shares in [0, 1] to 8 bits, which Pillow would clip instead, and lay
    transparency on white.
    """
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        # a 32-bit image may hold bytes or 16-bit values; "I;16" says which
        largest = values.max(initial=0)
        is_wide = image.mode.startswith("I;16") or (image.mode == "I" and largest > 255)
        top = 65535 if is_wide else 1 if image.mode == "F" and largest <= 1 else 255
        return Image.fromarray((values * (255 / top)).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour)
    return image


MOST_THREADS = 8
"""Threads that decode at a time: each holds a whole photo."""


def decode_ahead(
    files: Sequence[Path], size: int, channels: int, ahead: int
) -> Iterator[NDArray[np.uint8] | TaskError]:
    """Yield the images of files, in order, or why one cannot be read, while threads decode the next ones.

    Args:
        files: The files.
        size: Height and width that images are brought to.
        channels: 1 or 3.
        ahead: Images that are decoded before they are asked for, at most.
    """

    def decode(file: Path) -> NDArray[np.uint8] | TaskError:
        try:
            return decode_pixels(file, size, channels)
        except TaskError as error:
            return error

    waiting: deque[Future[NDArray[np.uint8] | TaskError]] = deque()
    pool = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "decoding")
    try:
        for file in files:
            waiting.append(pool.submit(decode, file))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def readable_pixels(
    paths: Sequence[Path],
    shape: tuple[int, ...],
    complain: Callable[[str], None],
    pixels: int = MOST_PIXELS,
) -> Iterator[tuple[list[Path], NDArray[np.uint8]]]:
    """Yield files and their images as arrays of numpy's, uint8 [image, channel, height, width], as many at a
    time as go through a network at once. The next ones are decoded meanwhile.

    Args:
        paths: Files and folders; see `find_images`.
        shape: Channels, height and width that images are brought to.
        complain: Told why a file cannot be read, or is not there; it is left out.
        pixels: Pixels that go through a network at once.

    Raises:
        TaskError: No file can be read, or the shape is no square of 1 or 3 channels.
    """
    if len(shape) != 3:
        raise TaskError(f"the network takes inputs of the shape {list(shape)}, which are no images")
    channels, height, width = shape
    if height != width:
        raise TaskError(f"the network takes images of {height} × {width}; images are read as squares")
    if channels not in (1, 3):
        raise TaskError(f"the network takes images of {channels} channels; files are read with 1 or 3")
    is_any = False
    there = {path: None for path in paths if is_there(path)}
    for path in paths:
        if path not in there:
            complain(f"{path} is not there")
    files, count = find_images([*there]) if there else [], images_at_once(shape, pixels)
    decoded = decode_ahead(files, height, channels, 2 * count)
    for chunk in batched(files, count):
        good: list[Path] = []
        images: list[NDArray[np.uint8]] = []
        for file, found in zip(chunk, decoded, strict=False):  # the next chunk goes on with it
            if isinstance(found, TaskError):
                complain(str(found))
            else:
                good.append(file)
                images.append(found)
        if good:
            is_any = True
            yield good, np.stack(images)
    if not is_any:
        raise TaskError("none of the files can be read as an image")


def readable_images(
    paths: Sequence[Path], shape: tuple[int, ...], complain: Callable[[str], None]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Yield files and their images as tensors; see `readable_pixels`."""
    import torch

    for files, images in readable_pixels(paths, shape, complain):
        yield files, torch.from_numpy(images)


def read_classes(root: Path, shape: tuple[int, ...]) -> tuple[list[str], MemorySplit, list[str]]:
    """Read a folder of examples, in which each folder is a class.

    Args:
        root: The folder.
        shape: Channels, height and width that images are brought to.

    Returns:
        Names of the classes, sorted; the images with their labels; and why others cannot be read.

    Raises:
        TaskError: There are fewer than two classes, a class has no readable image, or the shape is no square.
    """
    import torch

    from learnforge_kit.data.splits import MemorySplit

    folders = class_folders(root)
    if len(folders) < 2:
        raise TaskError(
            f"{root} must hold a folder for each of two classes at least, it holds {len(folders)}"
        )
    files = sorted(files_inside(root))
    faults = [f"{path} is in no class's folder" for path in files if path.parent == root]
    faults += [
        f"{path} has no ending of an image that is read: {', '.join(sorted(ENDINGS))}"
        for path in files
        if path.parent != root and path.suffix.lower() not in ENDINGS
    ]
    parts: list[Tensor] = []
    for folder in folders:
        try:
            parts.append(torch.cat([own for _, own in readable_images([folder], shape, faults.append)]))
        except TaskError as error:
            raise TaskError(
                f"class {folder.name}: {error}. Put examples there, or take the folder away"
            ) from error
    labels = torch.arange(len(folders)).repeat_interleave(torch.tensor([len(part) for part in parts]))
    return [folder.name for folder in folders], MemorySplit(torch.cat(parts), labels), faults


def _is_litter(name: str) -> bool:
    """Tell whether a file or folder is a system's own, as macOS puts into archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_there(path: Path) -> bool:
    """Tell whether a file or folder exists; a name that no system takes names none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than names may be, or with a zero in it
        return False


def batched(files: Sequence[Path], count: int) -> Iterator[Sequence[Path]]:
    """Yield files so many at a time."""
    for start in range(0, len(files), count):
        yield files[start : start + count]


def open_dataset(name: str, root: Path, download: bool, **options: Any) -> Any:
    """Open one of torchvision's data sets.

    Args:
        name: Class name in `torchvision.datasets`.
        root: Folder where it is, laid out as torchvision does.
        download: Fetch it if it is missing.
        options: Further arguments of the class.

    Raises:
        TaskError: It is not there, damaged, or cannot be fetched.
    """
    from torchvision import datasets  # slow to import

    cls = getattr(datasets, name)
    try:
        return cls(root=str(root), download=download, **options)
    except (RuntimeError, OSError) as error:
        hint = "check the network" if download else "set `download = true`, or put the files there"
        file = Path(inspect.getsourcefile(cls) or "").name
        raise TaskError(
            f"task: {name} must be in {root}, laid out as torchvision.datasets.{name} does ({file}); {hint}. "
            f"torchvision says: {error}"
        ) from error


def resize_images(images: Tensor, size: int | None) -> Tensor:
    """Return images uint8 [image, channel, height, width] as squares of a size: shrunk by area, so that thin
    strokes do not break, or enlarged by interpolation; as they are without a size.
    """
    if size is None or images.shape[-1] == size == images.shape[-2]:
        return images
    import torch
    import torch.nn.functional as F

    mode = "area" if size < images.shape[-1] else "bilinear"
    parts = [F.interpolate(part.float(), (size, size), mode=mode) for part in images.split(4096)]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
