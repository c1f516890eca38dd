"""Room on the disk: for files that are written through a memory map, and for caches."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
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
    folder: Path, own: Path, place: int, idle: Callable[[Path], AbstractContextManager[bool]]
) -> int:
    """Remove caches, the least recently used first, until the others take `place` bytes at most; return what
    is left of them.

    Args:
        folder: Holds a folder for each cache.
        own: The cache that is kept in any case.
        place: Bytes.
        idle: Tells whether a cache may be removed within the block.
    """
    others = [path for path in folder.iterdir() if path.is_dir() and path != own]
    sizes = {path: sum(map(_place_of, path.iterdir())) for path in others}
    for path in sorted(others, key=_last_use):
        if sum(sizes.values()) <= place:
            break
        with idle(path) as is_idle:
            if is_idle:
                shutil.rmtree(path, ignore_errors=True)  # a file that is open stays, on Windows
                del sizes[path]
    return sum(sizes.values())


def _place_of(file: Path) -> int:
    try:
        found = file.stat()
    except FileNotFoundError:  # somebody else's temporary file
        return 0
    return int(getattr(found, "st_blocks", -(-found.st_size // 512)) * 512)


def _last_use(folder: Path) -> float:
    return folder.stat().st_mtime if folder.exists() else 0.0
