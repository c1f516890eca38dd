"""Room on the disk for files that are written through a memory map."""

from __future__ import annotations

import os
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
