"""Files that mean harm, given to the commands that read images, networks and weights."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import ClassVar

import numpy as np
import torch
from attrs import define
from PIL import Image

from tests.campaigns.campaign import Campaign
from tests.campaigns.desk import CANARY

RECIPE = """
[run]
name = "photos"
device = "cpu"

[task]
use = "image-folder"
root = "photos"
size = 8

[[stage]]
kind = "transfer"
name = "learn"
use = "fine-tune"
from = {{ use = {model} }}
train = {{ epochs = 1 }}
baseline = false
"""
SECONDS = 60.0
NAMES = ("x", "\x1b[2J", "\n=cmd|x", "<script>", "x" * 200)
WEIGHTS = '"weights-file", file = "{file}", model = {{ use = "conv4", width = 4, blocks = 2 }}'


@define
class Hostile(Campaign):
    """Puts a few hostile files among good ones, and calls what reads them."""

    name: ClassVar[str] = "hostile"

    def prepare(self) -> None:
        """Train a network on photos, and export it."""
        work = self.folder / "made"
        make_photos(work / "photos")
        (work / "recipe.toml").write_text(RECIPE.format(model='"conv4", width = 4, blocks = 2'))
        for words in (["run", "recipe.toml"], ["export", "runs/photos", "--to", "exported"]):
            outcome = self.desk.run(words, work, SECONDS)
            assert outcome.code == 0, outcome.output

    def attempt(self, rng: Random, folder: Path) -> list[str]:
        """Carry out one of the sorts."""
        sort = rng.choice((self._images, self._images, self._exports, self._weights))
        return [f"{sort.__name__.strip('_')}: {fault}" for fault in sort(rng, folder)]

    def _images(self, rng: Random, folder: Path) -> list[str]:
        """Hostile images, under honest and strange names, in the folders of classes and beside them."""
        work, beside = folder / "work", folder / "beside"
        beside.mkdir()
        make_photos(work / "photos")
        made = []
        for number in range(rng.randrange(1, 4)):
            image = rng.choice(IMAGES)
            name = rng.choice(
                (f"{number}x", f"{number}\x1b[2J", f"{number}\n=cmd|x", f"{number}<script>", "x" * 200)
            )
            path = (
                work
                / "photos"
                / rng.choice(("one", "two"))
                / f"{name}{rng.choice(('.png', '.jpg', '.JPEG'))}"
            )
            if not os.path.lexists(path):
                image(path)
                made.append(f"{image.__name__.strip('_')} as {path.name!r:.40}")
        (work / "recipe.toml").write_text(RECIPE.format(model='"conv4", width = 4, blocks = 2'))
        source = self.folder / "made" / "runs" / "photos"
        every = (
            ["check", "recipe.toml"],
            ["run", "recipe.toml"],
            ["predict", source, "photos"],
            ["predict", self.folder / "made" / "exported", "photos", "--json"],
            ["embed", source, "photos"],
            ["export", source, "--images", "photos", "--to", "out"],
        )
        found = []
        for words in rng.sample(every, 2):
            outcome = self.desk.run(words, work, SECONDS if words[0] in ("run", "export") else 20.0)
            found += outcome.faults()
        return [f"{', '.join(made)}: {fault}" for fault in found + _executed(work)]

    def _exports(self, rng: Random, folder: Path) -> list[str]:
        """Files that say of themselves that they were exported."""
        work = folder / "work"
        make_photos(work / "photos")
        shutil.copytree(self.folder / "made" / "exported", work / "exported")
        ending = rng.choice((".onnx", ".pt2", ".pt", ".bin", ".json"))
        content = rng.choice(CONTENTS)
        target = work / "exported" / "export" / f"model{ending}"
        content(target)
        source = rng.choice((target, work / "exported"))
        outcome = self.desk.run(["predict", source, "photos"], work)
        found = outcome.faults() + _executed(work)
        return [f"{content.__name__.strip('_')} as {target.name}: {fault}" for fault in found]

    def _weights(self, rng: Random, folder: Path) -> list[str]:
        """Files of weights that a recipe names."""
        work = folder / "work"
        make_photos(work / "photos")
        ending = rng.choice((".safetensors", ".pt", ".pth", ".txt"))
        content = rng.choice(CONTENTS)
        content(work / f"weights{ending}")
        model = (
            f'"weights-file", file = "weights{ending}", model = {{ use = "conv4", width = 4, blocks = 2 }}'
        )
        (work / "recipe.toml").write_text(RECIPE.format(model=model))
        outcome = self.desk.run([rng.choice(("check", "run")), "recipe.toml"], work, SECONDS)
        found = outcome.faults() + _executed(work)
        if f"weights{ending}" not in outcome.output:
            found.append(f"the file is not named: {outcome.output[-300:]}")
        return [f"{content.__name__.strip('_')} as {ending}: {fault}" for fault in found]


class _Harm:
    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {CANARY}",)


def _executed(work: Path) -> list[str]:
    return ["executed what a file holds"] if list(work.rglob(CANARY)) else []


def make_photos(folder: Path) -> None:
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        for number in range(8):
            noise = np.random.default_rng(number).integers(0, 255, (8, 8, 3), np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number}.png")


def _png(width: int, height: int) -> bytes:
    """Return a PNG of one grey, whose pixels take no place."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + width)) for _ in range(min(height, 10**5))) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _wide(path: Path) -> None:
    path.write_bytes(_png(20_000, 1))


def _high(path: Path) -> None:
    path.write_bytes(_png(1, 80_000))


def _bomb(path: Path) -> None:
    path.write_bytes(_png(60_000, 60_000)[:100_000])


def _large(path: Path) -> None:
    path.write_bytes(_png(9_000, 9_000))


def _postscript(path: Path) -> None:
    path.write_text(f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch {CANARY}) (w) file\n")


def _text(path: Path) -> None:
    path.write_text("I am no such file.\n" * 50)


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _to_top(path: Path) -> None:
    path.symlink_to("/")


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(_Harm()))


def _packed_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("archive/data.pkl", pickle.dumps(_Harm()))
        packed.writestr("archive/version", "3\n")


def _state_of_harm(path: Path) -> None:
    torch.save({"weight": _Harm()}, path)


def _safetensors_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")


def _safetensors_shape(path: Path) -> None:
    head = json.dumps({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head)


def _onnx_naming(path: Path) -> None:
    """A field of metadata that says which exporter is to read the file."""
    own = b"\x0a\x0aexporter" + b"\x12\x0ctorch-export"
    path.write_bytes(b"\x08\x08" + b"\x72" + bytes([len(own)]) + own + pickle.dumps(_Harm()))


def _many_zeros(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("archive/data.pkl", bytes(10**8))


def _deep_json(path: Path) -> None:
    path.write_text("[" * 100_000 + "]" * 100_000)


IMAGES = (
    *(
        _wide,
        _high,
        _bomb,
        _large,
        _postscript,
        _text,
        _nothing,
        _noise,
        _pipe,
        _device,
        _loop,
        _to_top,
        _folder,
    ),
    *(_pickle, _packed_pickle),
)
CONTENTS = (
    *(_text, _nothing, _noise, _pickle, _packed_pickle, _state_of_harm, _safetensors_header, _onnx_naming),
    *(_safetensors_shape, _many_zeros, _deep_json, _folder),
)
