"""The teacher cache: every bit comes back, in any process, after any kill."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from learnforge import StageError
from learnforge_plugins.stages.distill.cache import ViewCache

INDICES, VIEWS = torch.tensor([0, 3, 3, 9]), torch.tensor([0, 1, 0, 4])
OPENED: list[ViewCache] = []
SCORES = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) * 1e-3


def _open(
    folder: Path,
    about: Any = "teacher",
    precision: Literal["32", "16"] = "32",
    limit: int = 1 << 20,
    outputs: int = 3,
) -> ViewCache:
    OPENED.append(ViewCache(folder, {"about": about}, 10, 5, outputs, precision, limit))
    return OPENED[-1]


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


@pytest.mark.parametrize("outputs", [1, 2, 3, 10])
def test_every_bit_comes_back(tmp_path: Path, outputs: int) -> None:
    """What was written is read bit for bit, also by another who opens the cache; the rest is missing."""
    scores = torch.randn(4, outputs, generator=torch.Generator().manual_seed(1))
    scores[0, 0] = -0.0
    _open(tmp_path, outputs=outputs).write(INDICES, VIEWS, scores)
    found, is_known = _open(tmp_path, outputs=outputs).read(INDICES, VIEWS)
    assert is_known.all()
    assert found.view(torch.int32).tolist() == scores.view(torch.int32).tolist()
    assert not _open(tmp_path, outputs=outputs).read(INDICES, torch.tensor([1, 2, 3, 0]))[1].any()


def test_half_precision_rounds(tmp_path: Path) -> None:
    """With `16` the scores come back in half precision, and take half of the place."""
    exact, halved = _open(tmp_path), _open(tmp_path, precision="16")
    exact.write(INDICES, VIEWS, SCORES)
    halved.write(INDICES, VIEWS, SCORES)
    assert torch.equal(halved.read(INDICES, VIEWS)[0], SCORES.half().float())
    assert torch.equal(exact.read(INDICES, VIEWS)[0], SCORES)
    assert halved._row.itemsize == 12  # three scores of two bytes, padded to eight, and a check
    assert exact._row.itemsize == 16


def test_teachers_do_not_meet(tmp_path: Path) -> None:
    """Another key is another cache."""
    _open(tmp_path, "one").write(INDICES, VIEWS, SCORES)
    assert not _open(tmp_path, "other").read(INDICES, VIEWS)[1].any()


def test_what_is_written_twice_is_kept_once(tmp_path: Path) -> None:
    """A view that is known already takes no second row."""
    cache, other = _open(tmp_path), _open(tmp_path)
    cache.write(INDICES, VIEWS, SCORES)
    other.write(INDICES, VIEWS, SCORES)
    assert len(cache) == len(other) == 4


def _write_some(folder: Path, part: int) -> None:
    cache = _open(folder)
    for index in range(10):
        views = torch.arange(5)
        scores = torch.full((5, 3), float(index)) + views[:, None]
        cache.write(torch.full((5,), index), views, scores)
        assert cache.read(torch.full((5,), index), views)[1].all(), part
    cache.close()


@pytest.mark.slow
def test_many_processes_write_at_a_time(tmp_path: Path) -> None:
    """Three processes fill one cache; every view is there once and right."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_write_some, args=(tmp_path, part)) for part in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    cache = _open(tmp_path)
    indices, views = torch.arange(10).repeat_interleave(5), torch.arange(5).repeat(10)
    found, is_known = cache.read(indices, views)
    assert is_known.all()
    assert torch.equal(found, (indices + views)[:, None].expand(-1, 3).float())
    assert len(cache) == 50


def _damage_row(path: Path) -> None:
    with (path / "rows.bin").open("r+b") as file:
        file.seek(16)
        file.write(b"\x01")


def _lose_rows(path: Path) -> None:
    size = (path / "rows.bin").stat().st_size
    (path / "rows.bin").write_bytes(bytes(size))


def _cut_rows(path: Path) -> None:
    os.truncate(path / "rows.bin", 20)


def _cut_slots(path: Path) -> None:
    os.truncate(path / "slots.bin", 10)


def _lose_slots(path: Path) -> None:
    (path / "slots.bin").unlink()


def _fill_slots(path: Path) -> None:
    size = (path / "slots.bin").stat().st_size
    (path / "slots.bin").write_bytes(b"\xff\xff\xff\x7f" * (size // 4))


def _fill_with_minus(path: Path) -> None:
    size = (path / "slots.bin").stat().st_size
    (path / "slots.bin").write_bytes(b"\xff" * size)


def _point_elsewhere(path: Path) -> None:
    with (path / "slots.bin").open("r+b") as file:
        file.seek(4 * (1 + 3 * 5 + 1))
        file.write((4).to_bytes(4, "little"))


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (_damage_row, [True, False, True, True]),
        (_lose_rows, [False] * 4),
        (_point_elsewhere, [True, False, True, True]),
        (_cut_rows, [False] * 4),
        (_cut_slots, [False] * 4),
        (_lose_slots, [False] * 4),
        (_fill_with_minus, [False] * 4),
    ],
)
def test_what_is_damaged_counts_as_missing(tmp_path: Path, damage: Any, left: list[bool]) -> None:
    """A row that is torn, lost, or another view's, is missing, and can be written again."""
    cache = _open(tmp_path)
    cache.write(INDICES, VIEWS, SCORES)
    damage(cache.path)
    again = _open(tmp_path)
    assert again.read(INDICES, VIEWS)[1].tolist() == left
    again.write(INDICES, VIEWS, SCORES)
    found, is_known = again.read(INDICES, VIEWS)
    assert is_known.all()
    assert torch.equal(found, SCORES)


def test_a_table_that_points_nowhere_holds_nothing(tmp_path: Path) -> None:
    """Numbers beyond all rows are no rows; where even their count is lost, nothing more is kept."""
    _open(tmp_path).write(INDICES, VIEWS, SCORES)
    _fill_slots(OPENED[-1].path)
    again = _open(tmp_path)
    again.write(INDICES, VIEWS, SCORES)
    assert not again.read(INDICES, VIEWS)[1].any()


def test_the_place_of_what_is_mapped_is_reserved(tmp_path: Path) -> None:
    """A hole in a file that is written through a memory map ends the process where the disk is full."""
    path = _open(tmp_path, limit=1 << 20).path / "slots.bin"
    assert path.stat().st_blocks * 512 >= path.stat().st_size


def test_a_disk_without_room_is_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the disk's, and nothing half made is left."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        _open(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_full_cache_serves_on(tmp_path: Path) -> None:
    """Beyond the limit nothing is kept; what is there stays, also under another limit later."""
    limit = 4 * 51 + 2 * 16  # the table of slots, and two rows
    cache = _open(tmp_path, limit=limit)
    cache.write(INDICES, VIEWS, SCORES)
    assert cache.capacity == len(cache) == 2
    assert cache.room == 0
    assert cache.read(INDICES, VIEWS)[1].tolist() == [True, True, False, False]
    larger = _open(tmp_path)
    larger.write(INDICES[:3], VIEWS[:3], SCORES[:3])
    assert larger.read(INDICES, VIEWS)[1].tolist() == [True, True, True, False]
    smaller = _open(tmp_path, limit=limit)
    smaller.write(INDICES, VIEWS, SCORES)
    assert smaller.room == 0
    assert smaller.read(INDICES, VIEWS)[1].tolist() == [True, True, True, False]


def test_a_limit_below_the_table_is_refused(tmp_path: Path) -> None:
    """The error says how much is needed, and what to do."""
    with pytest.raises(StageError, match=r"10 images × 5 views .* `cache_gib` allows 0\.00; raise it"):
        _open(tmp_path, limit=100)


def test_a_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk refuses, nothing more is kept, and nothing is lost."""
    cache = _open(tmp_path)
    cache.write(INDICES[:2], VIEWS[:2], SCORES[:2])

    class Full:
        def seek(self, place: int) -> None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_file", Full())
        cache.write(INDICES, VIEWS, SCORES)
    assert cache.read(INDICES, VIEWS)[1].tolist() == [True, True, False, False]


def _fill(folder: Path, name: str, age: float) -> Path:
    """Make a cache that was used some time ago."""
    cache = _open(folder, name)
    cache.write(INDICES, VIEWS, SCORES)
    os.utime(cache.path, (1e9 - age, 1e9 - age))
    return cache.path


def test_the_least_recently_used_make_place(tmp_path: Path) -> None:
    """Caches that nobody has open go until the rest fit beside the new one; the last used stay longest."""
    paths = [_fill(tmp_path, name, age) for age, name in enumerate(("new", "middle", "old"))]
    taken = sum(f.stat().st_blocks * 512 for f in paths[0].iterdir())
    while OPENED:
        OPENED.pop().close()
    own = _open(tmp_path, "own", limit=4 * 51 + 2 * taken)
    assert [path.exists() for path in paths] == [True, True, False]
    assert own.path.exists()


def test_what_is_open_stays(tmp_path: Path) -> None:
    """A cache that somebody has open makes no place; the new one then keeps nothing, and refuses nothing."""
    path = _fill(tmp_path, "old", 0)
    own = _open(tmp_path, "new", limit=4 * 51 + 16)
    assert path.exists()
    own.write(INDICES, VIEWS, SCORES)
    assert len(own) == own.capacity == 0


def _open_often(folder: Path, part: int) -> None:
    for number in range(15):
        cache = _open(folder, f"cache {(part + number) % 4}", limit=12_000)
        cache.write(INDICES, VIEWS, SCORES)
        cache.read(INDICES, VIEWS)
        cache.close()
        OPENED.clear()


@pytest.mark.slow
def test_many_processes_make_place_at_a_time(tmp_path: Path) -> None:
    """Three processes open four caches in turn, for which there is no place: none of them fails."""
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_open_often, args=(tmp_path, part)) for part in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]


def test_each_view_has_a_place_of_its_own(tmp_path: Path) -> None:
    """No two of all (index, view) share a row."""
    cache = _open(tmp_path)
    indices, views = torch.arange(10).repeat_interleave(5), torch.arange(5).repeat(10)
    scores = torch.arange(150.0).view(50, 3)
    cache.write(indices, views, scores)
    assert torch.equal(cache.read(indices, views)[0], scores)
