"""Image files: found in folders, read into one shape, and named where they cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from learnforge import TaskError
from learnforge_kit.data.images import class_folders, decode_image, find_images, readable_pixels
from learnforge_kit.data.passes import images_at_once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A grey image of 6 × 4, a coloured one of 8 × 8, a text, and a file that only looks like an image."""
    (tmp_path / "inside").mkdir()
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6)).save(tmp_path / "b.png")
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 0] = 255
    Image.fromarray(colour).save(tmp_path / "inside" / "a.PNG")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "inside" / "broken.jpg").write_bytes(b"no image")
    return tmp_path


def test_files_and_folders_are_searched(folder: Path) -> None:
    """Folders at any depth, by ending; named files whatever their ending; none twice."""
    names = [file.name for file in find_images([folder, folder / "b.png", folder / "notes.txt"])]
    assert names == ["b.png", "a.PNG", "broken.jpg", "notes.txt"]


def test_what_is_not_there_is_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A path that does not exist, and a folder without images."""
    with pytest.raises(TaskError, match=r"nothing\.png is not there"):
        find_images([folder / "nothing.png"])
    with pytest.raises(TaskError, match=r"there is no image in .*; endings: \.bmp, "):
        find_images([tmp_path_factory.mktemp("empty")])


def test_the_middle_is_cut_out(folder: Path) -> None:
    """Of 6 × 4 pixels the middle four columns; colours become grey by their weight, grey becomes colours."""
    pixels = decode_image(folder / "b.png", 4, 1)
    assert pixels[0].tolist() == [[1, 2, 3, 4], [7, 8, 9, 10], [13, 14, 15, 16], [19, 20, 21, 22]]
    assert decode_image(folder / "b.png", 4, 3)[:, 0, 0].tolist() == [1, 1, 1]
    assert decode_image(folder / "inside" / "a.PNG", 2, 1)[0, 0, 0] == 76  # 0.299 of 255


def test_photos_are_turned_upright(tmp_path: Path) -> None:
    """As their EXIF orientation says; where it is damaged they stay as they are."""
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4)
    held = Image.Exif()
    held[0x0112] = 6
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "held.png", exif=held)
    assert decode_image(tmp_path / "held.png", 4, 1)[0].tolist() == pixels.tolist()
    Image.fromarray(pixels).save(tmp_path / "damaged.png", exif=b"Exif\x00\x00no metadata")
    assert decode_image(tmp_path / "damaged.png", 4, 1)[0].tolist() == pixels.tolist()


def test_what_a_system_leaves_is_passed_over(tmp_path: Path) -> None:
    """Files and folders of archives made on macOS are neither images nor classes."""
    for name in ("a/1.png", "a/._1.png", "a/.cache/2.png", "__MACOSX/a/1.png", ".git/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [str(path.relative_to(tmp_path)) for path in find_images([tmp_path])] == ["a/1.png", "b/1.png"]
    assert [path.name for path in class_folders(tmp_path)] == ["a", "b"]


def test_files_that_cannot_be_read_are_left_out(folder: Path) -> None:
    """The rest is read, in order; where that is nothing, it is an error."""
    faults: list[str] = []
    ((files, images),) = readable_pixels([folder], (3, 4, 4), faults.append)
    assert [file.name for file in files] == ["b.png", "a.PNG"]
    assert images.shape == (2, 3, 4, 4)
    assert len(faults) == 1
    assert "broken.jpg cannot be read as an image" in faults[0]
    with pytest.raises(TaskError, match="none of the files can be read as an image"):
        list(readable_pixels([folder / "notes.txt"], (3, 4, 4), faults.append))
    assert len(faults) == 2


def test_files_are_decoded_ahead_in_order(tmp_path: Path) -> None:
    """Across the batches of large images, with a broken file on either side of a boundary, images are those
    of their files, and faults are told in order.
    """
    shape, count = (1, 512, 512), 11
    assert images_at_once(shape) == 4
    paths = [tmp_path / f"{number:02}.png" for number in range(count)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(path)
    for broken in (3, 4):
        paths[broken].write_bytes(b"no image")
    faults: list[str] = []
    batches = list(readable_pixels([tmp_path], shape, faults.append))
    assert [len(files) for files, _ in batches] == [3, 3, 3]
    whole = [number for number in range(count) if number not in (3, 4)]
    assert [file for files, _ in batches for file in files] == [paths[number] for number in whole]
    assert [int(image.max()) for _, images in batches for image in images] == whole
    assert [fault.split(" ")[0] for fault in faults] == [str(paths[3]), str(paths[4])]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    """A link to another folder shows its images, as a linked class does; one that leads back shows none."""
    for name in ("photos/cat/1.png", "more/2.png", "more/deep/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "photos/cat/linked").symlink_to(tmp_path / "more")
    (tmp_path / "photos/cat/again").symlink_to(tmp_path / "more")
    (tmp_path / "more/back").symlink_to(tmp_path / "photos/cat")
    (tmp_path / "more/deep/self").symlink_to(tmp_path / "more/deep")
    found = [str(path.relative_to(tmp_path / "photos")) for path in find_images([tmp_path / "photos"])]
    assert found == [
        "cat/1.png",
        *(f"cat/{link}/{name}" for link in ("again", "linked") for name in ("2.png", "deep/3.png")),
    ]


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_a_long_thin_image_takes_little_memory(tmp_path: Path, size: tuple[int, int]) -> None:
    """Of an image of 20,000 × 1 pixels only the middle is made large."""
    shades = np.arange(20_000, dtype=np.uint32).reshape(size[::-1]) // 80
    Image.fromarray(shades.astype(np.uint8)).save(tmp_path / "long.png")
    script = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from learnforge_kit.data.images import decode_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "pixels = decode_image(Path(sys.argv[1]), 224, 3)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, pixels.unique().tolist())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "long.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    grown, _, shades_seen = done.stdout.partition(" ")
    assert shades_seen.strip() in ("[124]", "[125]", "[124, 125]")  # the middle of 0 … 249
    assert int(grown) < 100_000  # KiB; the whole at that height would have 3 GB


def test_a_named_pipe_is_no_image(tmp_path: Path) -> None:
    """Reading it would wait for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(TaskError, match="it is no regular file"):
        decode_image(tmp_path / "pipe.png", 4, 1)


def test_names_of_classes_must_be_text(tmp_path: Path) -> None:
    """A folder's name may be any bytes; a class's name is written down."""
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff")).mkdir()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    with pytest.raises(TaskError, match=r"names of class folders must be UTF-8, b'.*xff' is not; rename"):
        class_folders(tmp_path)


@pytest.mark.parametrize("name", ["page.eps", "page.png", "page.jpg"])
def test_only_named_formats_are_read(tmp_path: Path, name: str) -> None:
    """A PostScript file, whatever its ending, would be run by Ghostscript."""
    Image.new("RGB", (8, 8)).save(tmp_path / name, format="EPS")
    with pytest.raises(TaskError, match="it has no known format"):
        decode_image(tmp_path / name, 4, 3)


def test_links_that_lead_back_are_passed_over(tmp_path: Path) -> None:
    """To a folder around the images, such as the whole disk: there is no end of it, and no class in it."""
    photos = tmp_path / "around" / "photos"
    for name in ("one", "two"):
        (photos / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(photos / name / "1.png")
    Image.new("L", (4, 4)).save(tmp_path / "around" / "other.png")
    (photos / "one" / "back").symlink_to(tmp_path / "around")
    (photos / "one" / "disk").symlink_to("/")
    (photos / "three").symlink_to("/")
    assert [path.parent.name for path in find_images([photos])] == ["one", "two"]
    assert [path.name for path in class_folders(photos)] == ["one", "two"]
