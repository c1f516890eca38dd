"""The teacher cache: class scores by (image, view), on the disk, shared by all that ask the same teacher.

An image has finitely many views (`learnforge_kit.training.augmentation`), so the scores of one can be kept
under (index, view) and read back without any loss. A cache is a folder:

    rows.bin    rows in the order of arrival: the scores, then a check over them and their key
    slots.bin   int32: how many rows there are, then for every (index, view) the row that holds it, 0 for none
    about.json  what the key of the folder stands for

A row is written before it is pointed at, and one whose check does not fit counts as missing, so a kill at any
point, or a lost page, costs a forward pass and never gives a wrong score. Files of another size than they
must have are made anew. The place of `slots.bin`, which is written through a memory map, is reserved first: a
hole in it that finds no place on the disk would end the process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from torch import Tensor

from learnforge.errors import StageError
from learnforge.files import fingerprint, remove, write_json
from learnforge_kit.disk import make_place, reserve

GIB = 1 << 30


class ViewCache:
    """Scores of one teacher for the views of one split; any number of processes may use it at a time.

    Args:
        folder: Folder of all caches; this one gets a folder in it.
        about: What the scores depend on, JSON-able; equal for equal scores.
        images: Images in the split.
        views: Views of an image.
        outputs: Scores of a view.
        precision: `32` keeps every bit; `16` rounds to half precision.
        limit: Bytes that all caches in the folder may take. Those that nobody has open make place, the least
            recently used first; what does not fit of this one is not kept.

    Raises:
        StageError: Not even the table of slots fits into the limit.
        OSError: The disk has no room for it, or refuses.
    """

    def __init__(
        self,
        folder: Path,
        about: Mapping[str, Any],
        images: int,
        views: int,
        outputs: int,
        precision: Literal["32", "16"],
        limit: int,
    ):
        whole = {**about, "rows": [images, views, outputs, precision]}
        self.path = folder / fingerprint(whole)[:24]
        self.views, self.outputs = views, outputs
        self._type = np.dtype(np.float32 if precision == "32" else np.float16)
        padded = -(-outputs * self._type.itemsize // 4) * 4
        self._row = np.dtype(
            {
                "names": ["scores", "check"],
                "formats": [(self._type, (outputs,)), np.uint32],
                "offsets": [0, padded],
                "itemsize": padded + 4,
            }
        )
        slots = 4 * (images * views + 1)
        if limit < slots + self._row.itemsize:
            raise StageError(
                f"the teacher cache needs {slots / GIB:.2f} GiB to know which of {images:,} images × {views} "
                f'views it holds, `cache_gib` allows {limit / GIB:.2f}; raise it, or set `cache = "off"`'
            )
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # who opens and who makes place take turns
            others = make_place(folder, self.path, limit - slots, _idle)
            self._prepare(whole, slots, images * views * self._row.itemsize)
            self._file = (self.path / "rows.bin").open("r+b", buffering=0)
            self._lock = FileLock(self.path / "lock")
            self._presence = (self.path / "presence").open("wb")
            _share(self._presence)
        self._slots = np.memmap(self.path / "slots.bin", np.int32, "r+")
        self._rows = np.memmap(self.path / "rows.bin", self._row, "r")
        self.capacity = min(images * views, max(0, limit - slots - others) // self._row.itemsize)
        self._is_open = True

    def read(self, indices: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
        """Look views up.

        Args:
            indices: int64 [batch].
            views: int64 [batch].

        Returns:
            Scores, float32 [batch, outputs] on the CPU, and which of them are known, bool [batch].
        """
        keys = self._keys(indices, views)
        places = self._slots[1 + keys]
        is_row = (places > 0) & (places <= len(self._rows))  # a damaged page may point anywhere
        rows = self._rows[np.where(is_row, places, 1) - 1]
        is_known = is_row & (rows["check"] == _check(rows["scores"], keys))
        scores = np.ascontiguousarray(rows["scores"], np.float32)
        return torch.from_numpy(scores), torch.from_numpy(is_known)

    def write(self, indices: Tensor, views: Tensor, scores: Tensor) -> None:
        """Keep the scores float [batch, outputs] of views, as far as there is place."""
        keys = self._keys(indices, views)
        values = scores.detach().float().cpu().numpy().astype(self._type)
        with self._lock:
            fresh = ~self.read(indices, views)[1].numpy()
            used = max(0, int(self._slots[0]))
            room = max(0, self.capacity - used)
            keys, values = keys[fresh][:room], values[fresh][:room]
            if not len(keys) or not self._is_open:
                return
            rows = np.zeros(len(keys), self._row)
            rows["scores"], rows["check"] = values, _check(values, keys)
            try:
                self._file.seek(used * self._row.itemsize)
                written = self._file.write(rows.tobytes())
            except OSError:
                written = 0
            if written < rows.nbytes:  # the disk is full: what is there serves on, nothing more is kept
                self._is_open = False
                return
            self._slots[0] = used + len(keys)
            self._slots[1 + keys] = np.arange(used + 1, used + 1 + len(keys), dtype=np.int32)

    def __len__(self) -> int:
        """Return how many views are kept."""
        return int(self._slots[0])

    @property
    def room(self) -> int:
        """How many more views can be kept."""
        return max(0, self.capacity - len(self)) if self._is_open else 0

    def close(self) -> None:
        """Let go of the files."""
        for file in (self._file, self._presence):
            file.close()

    def _keys(self, indices: Tensor, views: Tensor) -> NDArray[np.int64]:
        return (indices * self.views + views).cpu().numpy()

    def _prepare(self, about: Mapping[str, Any], slots: int, rows: int) -> None:
        """Make the files, once for all who use them; they take no place before they are written."""
        sizes = {"slots.bin": slots, "rows.bin": rows}
        is_whole = all(_size(self.path / name) == size for name, size in sizes.items())
        if not is_whole or not (self.path / "about.json").exists():
            remove(self.path)
            self.path.mkdir()
            try:
                for name, size in sizes.items():
                    with (self.path / name).open("wb") as file:
                        file.truncate(size)
                        if name == "slots.bin":
                            reserve(file, size)
            except OSError:
                remove(self.path)
                raise
            write_json(self.path / "about.json", dict(about))
        os.utime(self.path)  # the least recently used make place


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else -1


def _share(file: IO[bytes]) -> None:
    """Lock a file beside others who share it, so that nobody can take it for itself meanwhile. filelock has
    no such lock on a file, and Windows none at all.
    """
    if os.name != "nt":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_SH)


def _check(scores: NDArray[Any], keys: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return a checksum of each row with its key: uint32 [row], never that of an empty row."""
    values = np.ascontiguousarray(scores)
    width = values.shape[1] * values.itemsize
    bytes_ = np.zeros((len(values), -(-width // 4) * 4), np.uint8)
    bytes_[:, :width] = values.view(np.uint8).reshape(len(values), width)
    words = bytes_.view(np.uint32)
    factors = np.arange(1, 2 * words.shape[1], 2, dtype=np.uint32) * np.uint32(0x9E3779B1)
    total: NDArray[np.uint32] = (words * factors).sum(1, dtype=np.uint32)
    return total + keys.astype(np.uint32) * np.uint32(0x85EBCA6B) + np.uint32(1)


@contextmanager
def _idle(path: Path) -> Iterator[bool]:
    """Tell whether nobody has a cache open."""
    try:
        with FileLock(path / "presence", blocking=False):
            is_idle = True
    except Timeout:
        is_idle = False
    yield is_idle
