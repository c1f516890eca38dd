"""The store of decoded images: files are read once, whatever happens in between."""

from __future__ import annotations

import os
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from learnforge import TaskError
from learnforge_kit import Decoded, MemorySplit, decode_image, decode_once, measure_channels
from learnforge_kit.data import store
from learnforge_kit.errors import CacheWarning


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of this test's own, which believes times of change that are young, too."""
    monkeypatch.setenv(store.ENVIRONMENT, str(tmp_path / "store"))
    monkeypatch.setattr(store, "_FRESH", 0)
    return tmp_path / "store"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are decoded from now on."""
    names: list[str] = []
    real = store.open_square

    def watched(file, size, channels):
        names.append(file.name)
        return real(file, size, channels)

    monkeypatch.setattr(store, "open_square", watched)
    return names


def save(file: Path, seed: int) -> Path:
    """Write an image of noise; of one size for all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    time.sleep(0.02)  # a system's times of change may be no finer
    Image.fromarray(noise).save(file)
    return file


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five images, 8 × 8."""
    return [save(tmp_path / "data" / f"{number}.bmp", number) for number in range(5)]


def load(files: list[Path], is_held: bool = True, size: int = 8) -> Decoded:
    """Read files out of the folder that they are in."""
    return decode_once(files, files[0].parent, size, 3, is_held)


def pixels_of(decoded: Decoded) -> torch.Tensor:
    """Return the pixels of the files, in their order."""
    assert decoded.pixels is not None
    return decoded.pixels[decoded.rows]


def expected(files: list[Path]) -> torch.Tensor:
    """Decode files one by one."""
    return torch.stack([decode_image(file, 8, 3) for file in files])


@pytest.mark.parametrize("is_held", [True, False])
def test_a_second_start_decodes_nothing(files: list[Path], read: list[str], is_held: bool) -> None:
    """And finds what the first one found, for other splits too."""
    first = load(files, is_held)
    assert sorted(read) == [f"{number}.bmp" for number in range(5)]
    read.clear()
    again = load(files[::-1], is_held)
    assert not read
    assert again.facts.tobytes() == first.facts[::-1].tobytes()
    assert again.heads == first.heads == {(8, 8, False)}
    if is_held:
        torch.testing.assert_close(pixels_of(again), expected(files[::-1]), rtol=0, atol=0)
    else:
        assert again.pixels is None


def test_what_is_known_is_what_a_held_split_would_measure(files: list[Path]) -> None:
    """Mean, deviation and content are those of the same images in memory."""
    decoded, labels = load(files), torch.tensor([0, 1, 0])
    held = MemorySplit(expected(files[1:4]), labels)
    split = decoded.split(slice(1, 4), labels)
    assert split.content == held.content
    assert split.content != decoded.split(slice(0, 3), labels).content
    assert load(files, is_held=False).split(slice(1, 4), labels).content == held.content
    for ours, theirs in zip(decoded.measure(slice(1, 4)), measure_channels(held.images), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)


def test_a_plain_channel_has_the_deviation_one(tmp_path: Path) -> None:
    """As everywhere, so that normalising stays finite."""
    file = tmp_path / "data/plain.png"
    file.parent.mkdir()
    Image.new("RGB", (8, 8), (0, 51, 255)).save(file)
    mean, deviation = load([file]).measure(slice(None))
    assert mean == (0.0, pytest.approx(0.2), 1.0)
    assert deviation == (1.0, 1.0, 1.0)


def test_splits_hand_out_and_choose(files: list[Path]) -> None:
    """Batches, a selection, and the copy in another process hold the images of their labels."""
    split = load(files).split(slice(1, 5), torch.arange(1, 5))
    images, labels, indices = next(iter(split.batches(torch.tensor([3, 0]), 2)))
    assert (labels.tolist(), indices.tolist()) == ([4, 1], [3, 0])
    assert images.equal(expected([files[4], files[1]]))
    assert split.load(torch.device("cpu")) is split
    chosen = split.select(torch.tensor([2]))
    assert (chosen.labels.tolist(), chosen.images.equal(expected(files[3:4]))) == ([3], True)
    copy = pickle.loads(pickle.dumps(split))
    assert copy.content == split.content
    assert copy.images.equal(expected(files[1:]))


def test_a_changed_file_is_read_again_and_it_alone(files: list[Path], read: list[str]) -> None:
    """Known by its time of change; a new one is read too."""
    load(files)
    save(files[2], 99)
    more = [*files, save(files[0].with_name("new.bmp"), 7)]
    read.clear()
    found = load(more)
    assert sorted(read) == ["2.bmp", "new.bmp"]
    assert pixels_of(found).equal(expected(more))
    read.clear()
    assert pixels_of(load(more)).equal(expected(more))
    assert not read


def test_a_file_that_might_still_change_is_read_again(
    files: list[Path], read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file written this very moment may be written again without another time of change."""
    monkeypatch.setattr(store, "_FRESH", 2_000_000_000)
    load(files)
    read.clear()
    assert pixels_of(load(files)).equal(expected(files))
    assert len(read) == 5


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such times")
def test_files_of_one_size_and_time_are_told_apart(files: list[Path]) -> None:
    """Swapped, copied over another with its time, or behind a link that leads elsewhere."""
    for file in files:
        os.utime(file, (1_600_000_000, 1_600_000_000))
    link = files[0].with_name("link.bmp")
    link.symlink_to(files[3])
    files = [*files, link]
    load(files)
    (spare := files[0].with_name("spare")).touch()
    for source, target in ((files[0], spare), (files[1], files[0]), (spare, files[1])):
        source.replace(target)
    shutil.copy2(files[2], files[4])
    link.unlink()
    link.symlink_to(files[0])
    assert pixels_of(load(files)).equal(expected(files))


def test_versions_that_are_gone_do_not_pile_up(files: list[Path], folder: Path) -> None:
    """A set whose files change all the time takes at most twice their place."""
    for number in range(6):
        for file in files:
            save(file, number + 100)
        assert pixels_of(load(files)).equal(expected(files))
    sizes = [path.stat().st_size for path in folder.rglob("pixels.bin")]
    assert sizes[0] <= 2 * 5 * 3 * 8 * 8
    assert len(sizes) == 1


def test_what_a_kill_or_damage_leaves_costs_reading_alone(files: list[Path], folder: Path) -> None:
    """Pixels behind the index, pixels that are gone, an index that is none, and pixels that are others."""
    load(files[:3])
    (pixels,) = folder.rglob("pixels.bin")
    with pixels.open("ab") as stream:
        stream.write(b"torn" * 30)
    assert pixels_of(load(files)).equal(expected(files))
    os.truncate(pixels, 100)
    assert pixels_of(load(files)).equal(expected(files))
    for damage in (b"", b"PK\x03\x04 no index"):
        (pixels.parent / "index.npz").write_bytes(damage)
        assert pixels_of(load(files[::-1])).equal(expected(files[::-1]))
    with pixels.open("r+b") as stream:
        stream.seek(3 * 8 * 8)
        stream.write(bytes(3 * 8 * 8))
    assert pixels_of(load(files)).equal(expected(files))


def test_who_looks_at_pixels_goes_on_seeing_them(files: list[Path], folder: Path) -> None:
    """A set that is made anew, or makes place, takes nothing from a run that has it."""
    looked, first = load(files), expected(files)
    (index,) = folder.rglob("index.npz")
    index.unlink()
    for number, file in enumerate(files):
        save(file, 500 + number)
    load(files[::-1])
    assert pixels_of(looked).equal(first)
    shutil.rmtree(folder)
    assert pixels_of(looked).equal(first)


def test_a_part_of_a_root_leaves_the_others(files: list[Path], read: list[str]) -> None:
    """Though one of its files has changed, or cannot be read."""
    load(files)
    save(files[0], 77)
    load(files[:1])
    files[1].write_text("no image")
    with pytest.raises(TaskError, match="1 of 2 files"):
        load(files[:2])
    save(files[1], 1)
    read.clear()
    assert pixels_of(load(files)).equal(expected(files))
    assert read == ["1.bmp"]


def test_files_that_cannot_be_read_are_named_and_the_others_kept(files: list[Path], read: list[str]) -> None:
    """Mended, they alone are read."""
    for file in files[1:3]:
        file.write_text("no image")
    with pytest.raises(TaskError, match=r"2 of 5 files in .*data cannot be read as images") as caught:
        load(files)
    assert all(str(file) in str(caught.value) for file in files[1:3])
    for number in (1, 2):
        save(files[number], number)
    read.clear()
    assert pixels_of(load(files)).equal(expected(files))
    assert sorted(read) == ["1.bmp", "2.bmp"]


@pytest.mark.parametrize("is_held", [True, False])
def test_a_store_that_cannot_be_written_costs_a_warning(
    files: list[Path], folder: Path, is_held: bool
) -> None:
    """The images are held in memory, and the words say what to do."""
    folder.write_text("a file, no folder")
    with pytest.warns(CacheWarning, match="Let LEARNFORGE_CACHE name a folder with room"):
        found = load(files, is_held)
    assert found.facts["digest"].any()
    assert not is_held or pixels_of(found).equal(expected(files))


@pytest.mark.parametrize("name", ["~nobody-of-this-name/store", "~"])
def test_a_home_that_is_none_keeps_nothing(
    files: list[Path], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for users of containers whom no file names."""

    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    monkeypatch.setenv(store.ENVIRONMENT, name)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert pixels_of(load(files)).equal(expected(files))
    assert sorted(tmp_path.iterdir()) == before


def test_an_empty_name_keeps_nothing(
    files: list[Path], folder: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither here nor in the home folder."""
    monkeypatch.setenv(store.ENVIRONMENT, "")
    monkeypatch.setenv("HOME", str(folder))
    for _ in range(2):
        assert pixels_of(load(files)).equal(expected(files))
    assert len(read) == 10
    assert not folder.exists()


def test_the_least_recently_used_make_place(
    files: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that does not fit by itself is held in memory."""
    for size in (7, 8, 6):  # each takes two blocks of 4,096 bytes
        load(files, size=size)
    kept = sorted((folder / "images").glob("*/"), key=lambda path: path.stat().st_mtime)
    monkeypatch.setattr(store, "LIMIT", 2 * 8192 + 5 * 3 * 25)
    load(files, size=5)
    assert not kept[0].exists()
    assert kept[2].exists()
    monkeypatch.setattr(store, "LIMIT", 2 * 8192)
    with FileLock(kept[1].with_suffix(".lock")):  # somebody reads files into it
        load(files, size=3)
    assert kept[1].exists()
    monkeypatch.setattr(store, "LIMIT", 100)
    with pytest.warns(CacheWarning, match="they take"):
        assert load(files, size=4).pixels is not None


def test_several_who_start_at_once_read_once(files: list[Path], read: list[str]) -> None:
    """Whoever comes second waits, and finds it done."""
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: load(files), range(4)))
    assert len(read) == 5
    assert all(pixels_of(each).equal(expected(files)) for each in found)


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A photo of 640 × 480: smooth shades and a little noise."""
    across, down = np.meshgrid(np.linspace(0, 6, 640), np.linspace(0, 4, 480))
    waves = np.stack([np.sin(across + k) * np.cos(down - k) for k in range(3)], 2) * 100 + 128
    file = tmp_path / "wide.jpg"
    Image.fromarray(waves.clip(0, 255).astype(np.uint8)).save(file, quality=95)
    return file


def test_large_jpegs_are_decoded_small(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a quarter for 56 pixels, which changes a smooth photo by less than a shade or two; whole for 300."""
    sizes = []
    real = Image.Image.resize

    def watched(image, *given, **named):
        sizes.append(image.size)
        return real(image, *given, **named)

    monkeypatch.setattr(Image.Image, "resize", watched)
    small, large = decode_image(wide, 56, 3), decode_image(wide, 300, 3)
    assert sizes == [(160, 120), (640, 480)]
    whole = Image.open(wide).convert("RGB").resize((75, 56), Image.Resampling.BILINEAR)
    reference = torch.from_numpy(np.asarray(whole).copy()).permute(2, 0, 1)[:, :, 9:65]
    assert (small.int() - reference.int()).abs().float().mean() < 2
    assert large.shape == (3, 300, 300)
