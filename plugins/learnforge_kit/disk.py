"""Room on the disk: for files that are written through a memory map, and for caches."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO


def reserve(file: IO[bytes], size: int) -> None:
    """Take the place of a file on the disk: a hole in it that finds none later would end the process.

    Args:
        file: An empty file, open for writing.
        size: Bytes that it is to have.

    Raises:
        OSError: There is no such place.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, 1 << 20):
        file.write(bytes(min(1 << 20, size - start)))


def make_place(
    folder: Path, own: Path, place: int, is_idle: Callable[[Path], bool] = lambda path: True
) -> int:
    """Remove caches, the least recently used first, until the others take `place` bytes at most; return what
    is left of them.

    Args:
        folder: Holds a folder for each cache.
        own: The cache that is kept in any case.
        place: Bytes.
        is_idle: Tells which caches may be removed.
    """
    others = [path for path in folder.iterdir() if path.is_dir() and path != own]
    sizes = {path: sum(file.stat().st_blocks * 512 for file in path.iterdir()) for path in others}
    for path in sorted(others, key=lambda path: path.stat().st_mtime):
        if sum(sizes.values()) <= place:
            break
        if is_idle(path):
            shutil.rmtree(path)
            del sizes[path]
    return sum(sizes.values())
