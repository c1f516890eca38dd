"""Images of a folder, read from their files once: decoded, measured, and kept for later runs.

The store is a folder that all runs of a user share, `~/.cache/learnforge` or what the environment's
LEARNFORGE_CACHE names. In it each set of images, of one root and brought to one shape, is a folder:

    pixels.bin   uint8 [image, channel, size, size], in the order in which the files were read
    index.npz    names of the files, and what is known of each: see `_facts_of`

A file whose size, time of change or inode is another than in the index is read again, and its pixels are put
behind the others; so are those of a row whose hash is wrong. Pixels reach the disk before the index names
them, and are never written over, so a kill costs reading and whoever looks at them goes on seeing them.
Splits look at them through a memory map, so a set takes the memory that is used of it.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import math
import os
import shutil
import time
import warnings
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from attrs import frozen
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import features
from torch import Tensor

from learnforge.errors import LearnforgeError, TaskError
from learnforge.files import fingerprint, home_path, remove, write_atomically
from learnforge.kinds.task import Split
from learnforge_kit.data.images import MOST_THREADS, Head, batched, decode_image, open_square
from learnforge_kit.data.splits import MemorySplit, content_of
from learnforge_kit.data.streams import StreamSplit
from learnforge_kit.disk import make_place
from learnforge_kit.errors import CacheWarning

ENVIRONMENT = "LEARNFORGE_CACHE"
"""Names the folder of the store; empty keeps nothing beyond the process."""

VERSION = 1
"""Of what is kept; another decoder or index gets another number."""

LIMIT = 16 << 30
"""Bytes that all sets may take on the disk; the least recently used make place."""

_CHUNK = 64
"""Files that a thread reads at a time, at most."""

_CHUNK_BYTES = 1 << 24
"""Pixels of them, at most."""

_SMALL = 4096
"""Bytes of a file below which threads cost more by waiting for Python's lock than they gain."""

_FRESH = 2_000_000_000
"""Nanoseconds within which a file may change again without another time of change."""


@frozen(eq=False)
class Decoded:
    """Images that were read, and what the reading found.

    Args:
        files: The files that were asked for.
        shape: Channels, height and width.
        facts: Of each file; see `_facts_of`.
        rows: int64 [file], the place of each file's pixels.
        pixels: uint8 [place, channel, size, size], a memory map or in memory; None where they are not held.
    """

    files: Sequence[Path]
    shape: tuple[int, int, int]
    facts: NDArray[Any]
    rows: Tensor
    pixels: Tensor | None

    @property
    def heads(self) -> set[Head]:
        """Widths and heights of the files, and whether they are grey; each once."""
        columns = (self.facts[name].tolist() for name in ("width", "height", "is_grey"))
        return set(zip(*columns, strict=True))

    def split(self, part: slice, labels: Tensor, workers: int = 2) -> StoredSplit | StreamSplit:
        """Return some of the files as a split.

        Args:
            part: Which files.
            labels: Of each, int64 [count], or what else the task's form has for targets.
            workers: Reading processes, where the pixels are not held.
        """
        content = content_of(self.shape, labels, self.facts["digest"][part].tobytes())
        if self.pixels is not None:
            return StoredSplit(self.pixels, self.rows[part], labels, content)
        decode = partial(decode_image, size=self.shape[1], channels=self.shape[0])
        return StreamSplit(self.files[part], labels, decode, content, workers)

    def measure(self, part: slice) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return what `measure_channels` does of some of the files."""
        own = self.facts[part]
        count = len(own) * self.shape[1] * self.shape[2]
        means, deviations = [], []
        for channel in range(self.shape[0]):
            total, squares = (int(own[name][:, channel].sum()) for name in ("sum", "squares"))
            spread = count * squares - total * total  # exact, since these are whole numbers
            means.append(total / count / 255)
            deviations.append(spread**0.5 / count / 255 if spread else 1.0)
        return tuple(means), tuple(deviations)


@frozen(eq=False, repr=False)
class StoredSplit(Split):
    """A split whose images are rows of a larger set, which stays where it is.

    Args:
        images: uint8 [row, channel, height, width], on the CPU.
        rows: int64 [count], the row of each image.
        labels: int64 [count].
        content: Hash of the images and labels, as of a `MemorySplit` of them.
    """

    images: Tensor
    rows: Tensor
    labels: Tensor
    content: str

    def select(self, indices: Tensor) -> MemorySplit:
        return MemorySplit(self.images[self.rows[indices]], self.labels[indices])

    def load(self, device: torch.device) -> Split:
        if device.type == "cpu":
            return self
        return MemorySplit(self.images[self.rows], self.labels).load(device)

    def batches(self, order: Tensor, batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for indices in order.split(batch_size) if len(order) else ():
            yield self.images[self.rows[indices]], self.labels[indices], indices

    def __reduce__(self) -> tuple[Any, ...]:
        return MemorySplit, (self.images[self.rows], self.labels)  # another machine has other disks


def decode_once(files: Sequence[Path], root: Path, size: int, channels: int, is_held: bool = True) -> Decoded:
    """Return images in one shape: from the store where it has them unchanged; the others are read, and all
    that is to be known of them is measured in the same pass.

    Args:
        files: Image files.
        root: The folder that they belong to.
        size: Height and width; see `decode_image`.
        channels: 1 or 3.
        is_held: Hold the pixels; otherwise only what is known of them is kept.

    Raises:
        TaskError: Files cannot be read; all are named, and the others are kept.
    """
    shape = (channels, size, size)
    if files and (folder := _store()):
        decoders = [VERSION, PIL.__version__, features.version("jpg")]
        key = fingerprint([str(root.resolve()), shape, is_held, *decoders])[:24]
        try:
            return _read_kept(files, root, shape, folder / "images" / key, is_held)
        except TaskError:
            raise
        except (OSError, LearnforgeError) as error:
            warnings.warn(
                f"decoded images cannot be kept in {folder}: {error}. Let {ENVIRONMENT} name a folder with "
                f"room for them; every start reads all files until then",
                CacheWarning,
                stacklevel=2,
            )
    pixels = np.empty((len(files), *shape), np.uint8) if is_held else None
    facts, faults, start = np.empty(len(files), _facts_of(channels)), list[str](), 0
    for part in _read(files, shape):
        own = slice(start, start + len(part.files))
        facts[own] = part.facts
        if pixels is not None:
            pixels[own] = part.pixels
        faults += part.faults
        start += len(part.files)
    _refuse(faults, len(files), root)
    held = torch.from_numpy(pixels) if pixels is not None else None
    return Decoded(files, shape, facts, torch.arange(len(files)), held)


def _store() -> Path | None:
    named = os.environ.get(ENVIRONMENT)
    if named is None:
        named = str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "learnforge"))
    folder = home_path(named)
    has_home = not str(folder).startswith("~")  # some containers have none
    return folder if named and has_home else None


def _read_kept(
    files: Sequence[Path], root: Path, shape: tuple[int, int, int], folder: Path, is_held: bool
) -> Decoded:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock_of(folder)):
        folder.mkdir(exist_ok=True)
        os.utime(folder)  # the least recently used make place
        image = math.prod(shape) if is_held else 0
        names, facts = _load_index(folder, shape[0], image)
        keys = [(_name(file, root), *_stamp(file)) for file in files]
        rows = _find(keys, names, facts)
        if is_held:
            _forget_damaged(rows, facts, folder / "pixels.bin", image)
        missing = (rows < 0).nonzero()[0].tolist()
        if missing:
            current = {key[0] for key in keys}
            gone = sum(name in current for name in names) - (len(files) - len(missing))
            if 2 * gone > len(names):  # most of it is of files as they were
                names, facts, missing = [], facts[:0], [*range(len(files))]
            rows[missing] = len(names) + np.arange(len(missing))
            new = [files[place] for place in missing]
            facts, faults = _add(new, root, shape, folder, names, facts, image)
            _refuse(faults, len(files), root)
        pixels = None
        if is_held:
            kept = np.memmap(folder / "pixels.bin", np.uint8, "c", shape=(len(facts), *shape))
            pixels = torch.from_numpy(kept)
    return Decoded(files, shape, facts[rows], torch.from_numpy(rows), pixels)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(".lock")


@contextmanager
def _kept_idle(folder: Path) -> Iterator[bool]:
    """Tell whether nobody is about a set, and keep others from it for the block."""
    try:
        lock = FileLock(_lock_of(folder), blocking=False).acquire()
    except Timeout:
        yield False
        return
    with lock:
        yield True


def _add(
    files: Sequence[Path],
    root: Path,
    shape: tuple[int, ...],
    folder: Path,
    names: Sequence[str],
    facts: NDArray[Any],
    image: int,
) -> tuple[NDArray[Any], list[str]]:
    """Read files and put their pixels, `image` bytes each, behind those that are kept.

    Returns:
        What is known of all, and why some could not be read.
    """
    place = (len(names) + len(files)) * image
    if place > LIMIT or len(files) * image > shutil.disk_usage(folder).free // 2:
        raise OSError(errno.ENOSPC, f"they take {place / (1 << 30):.1f} GiB")
    make_place(folder.parent, folder, LIMIT - place, _kept_idle)
    if not names:  # others may look at the old pixels, which stay theirs
        remove(folder / "index.npz")
        remove(folder / "pixels.bin")
    parts, added, faults = [facts], list[str](), list[str]()
    with (folder / "pixels.bin").open("ab") as stream:
        if stream.tell() < len(names) * image:
            raise OSError(errno.EIO, f"{stream.name} was cut off meanwhile")
        stream.truncate(len(names) * image)  # what a kill left there
        for part in _read(files, shape):
            if image:
                stream.write(part.pixels.data)
            parts.append(part.facts)
            added += [_name(file, root) for file in part.files]
            faults += part.faults
        stream.flush()
        os.fsync(stream.fileno())
    facts = np.concatenate(parts)
    _save_index(folder, [*names, *added], facts)
    return facts, faults


def _find(
    keys: Sequence[tuple[str, int, int, int]], names: Sequence[str], facts: NDArray[Any]
) -> NDArray[np.int64]:
    """Return the row of each file, -1 where it is not kept, or has changed since it was read."""
    stamps = zip(*(facts[name].tolist() for name in ("bytes", "changed", "inode")), strict=True)
    rows = {(name, *stamp): row for row, (name, stamp) in enumerate(zip(names, stamps, strict=True))}
    return np.array([rows.get(key, -1) for key in keys], np.int64)


def _forget_damaged(rows: NDArray[np.int64], facts: NDArray[Any], pixels: Path, image: int) -> None:
    """Take the rows out whose pixels are not those that were written."""
    wanted = np.unique(rows[rows >= 0])
    if not len(wanted):
        return
    digests, damaged = facts["digest"], []
    with pixels.open("rb") as stream:
        for row in wanted.tolist():
            stream.seek(row * image)
            if hashlib.sha256(stream.read(image)).digest() != digests[row].tobytes():
                damaged.append(row)
    rows[np.isin(rows, damaged)] = -1


def _name(file: Path, root: Path) -> str:
    try:
        return str(file.relative_to(root))
    except ValueError:
        return str(file.resolve())


def _stamp(file: Path) -> tuple[int, int, int]:
    """Return bytes, time of change and inode of a file."""
    try:
        found = file.stat()
    except OSError:  # it is gone, and reading it says so
        return -1, -1, -1
    changed = found.st_mtime_ns if os.name == "nt" else found.st_ctime_ns  # the other may be set at will
    return found.st_size, changed, found.st_ino


def _load_index(folder: Path, channels: int, image: int) -> tuple[list[str], NDArray[Any]]:
    """Return names and facts of what is kept; none of it where the files do not fit one another."""
    facts_type = _facts_of(channels)
    try:
        with (folder / "index.npz").open("rb") as stream, np.load(stream) as kept:
            names = os.fsdecode(kept["names"].tobytes()).split("\0")
            facts = kept["facts"]
        size = (folder / "pixels.bin").stat().st_size
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return [], np.empty(0, facts_type)
    if facts.dtype != facts_type or len(names) != len(facts) or size < len(facts) * image:
        return [], np.empty(0, facts_type)
    return names, facts


def _save_index(folder: Path, names: Sequence[str], facts: NDArray[Any]) -> None:
    def write(path: Path) -> None:
        with path.open("wb") as stream:  # numpy puts an ending of its own behind a path
            np.savez(stream, names=np.frombuffer(os.fsencode("\0".join(names)), np.uint8), facts=facts)

    write_atomically(folder / "index.npz", write)


def _facts_of(channels: int) -> np.dtype[Any]:
    """Return what is known of an image: the file's bytes, time of change in nanoseconds, -1 where it might
    change again within it, and inode; its width and height, and whether it is grey; of its pixels the
    SHA-256, and of each channel the sum and that of the squares.
    """
    return np.dtype(
        [
            ("bytes", np.int64),
            ("changed", np.int64),
            ("inode", np.uint64),
            ("width", np.int32),
            ("height", np.int32),
            ("is_grey", np.bool_),
            ("digest", np.uint8, (32,)),
            ("sum", np.int64, (channels,)),
            ("squares", np.int64, (channels,)),
        ]
    )


@frozen(eq=False)
class _Part:
    """Some files that were read.

    Args:
        files: Those that could be.
        pixels: uint8 [file, channel, size, size].
        facts: Of each.
        faults: Why others could not be.
    """

    files: list[Path]
    pixels: NDArray[np.uint8]
    facts: NDArray[Any]
    faults: list[str]


def _read(files: Sequence[Path], shape: tuple[int, ...]) -> Iterator[_Part]:
    """Read files by threads, in order, some chunks ahead of who takes them."""
    chunks = iter(batched(files, max(1, min(_CHUNK, _CHUNK_BYTES // math.prod(shape)))))
    few = [max(0, _stamp(file)[0]) for file in files[:_CHUNK]]
    is_small = sum(few) < _SMALL * len(few)
    threads = 1 if is_small else min(MOST_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[_Part]] = deque()
        try:
            for chunk in itertools.islice(chunks, 2 * threads):
                running.append(pool.submit(_read_chunk, chunk, shape))
            while running:
                yield running.popleft().result()
                for chunk in itertools.islice(chunks, 1):
                    running.append(pool.submit(_read_chunk, chunk, shape))
        finally:
            for future in running:
                future.cancel()


def _read_chunk(files: Sequence[Path], shape: tuple[int, ...]) -> _Part:
    channels, size, _ = shape
    pixels = np.empty((len(files), *shape), np.uint8)
    good, faults, found, begun = list[Path](), list[str](), [], time.time_ns()
    for file in files:
        stamp = _stamp(file)
        try:
            image, head = open_square(file, size, channels)
        except TaskError as error:
            faults.append(str(error))
            continue
        values = pixels[len(good)]
        values[:] = np.asarray(image).reshape(size, size, channels).transpose(2, 0, 1)
        numbers = values.reshape(channels, -1).astype(np.float64)  # which holds whole numbers up to 2^53
        squares = np.einsum("cp,cp->c", numbers, numbers)
        found.append((stamp, head, hashlib.sha256(values.data).digest(), numbers.sum(1), squares))
        good.append(file)
    facts = np.zeros(len(good), _facts_of(channels))
    if good:
        stamps, heads, digests, facts["sum"], facts["squares"] = map(list, zip(*found, strict=True))
        facts["bytes"], changed, facts["inode"] = (np.array(own) for own in zip(*stamps, strict=True))
        facts["changed"] = np.where(begun - changed > _FRESH, changed, -1)
        facts["width"], facts["height"], facts["is_grey"] = np.array(heads).T
        facts["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
    return _Part(good, pixels[: len(good)], facts, faults)


def _refuse(faults: Sequence[str], count: int, root: Path) -> None:
    if faults:
        shown = "\n  ".join(faults[:20]) + (f"\n  and {len(faults) - 20} more" if len(faults) > 20 else "")
        raise TaskError(
            f"{len(faults)} of {count} files in {root} cannot be read as images; mend or remove "
            f"them:\n  {shown}"
        )
