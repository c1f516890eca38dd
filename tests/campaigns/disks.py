"""Disks that fill, refuse or vanish while a command writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from attrs import define, field

from tests.campaigns.campaign import Campaign
from tests.campaigns.desk import Outcome
from tests.campaigns.hostile import make_photos
from tests.campaigns.records import ROAD_WITH_CACHE, comparable

RUN_SECONDS = 180.0
VANISHES = """
import shutil
from learnforge import hookimpl

@hookimpl
def learnforge_epoch_finished(stage, metrics):
    if stage == {stage!r}:
        shutil.rmtree("run", ignore_errors=True)
"""
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("predict", "{whole}/transfer", "{images}", "--to", "{disk}/named.csv"),
    ("adapt", "{whole}/meta", "--support", "{images}", "--to", "{disk}/adapted"),
    ("embed", "{whole}/transfer", "{images}", "--to", "{disk}/features.npz"),
    ("export", "{whole}/transfer", "--to", "{disk}/exported"),
    ("profile", "{whole}/transfer", "--to", "{disk}/script.py"),
    ("report", "{whole}", "--to", "{disk}/page.html"),
    ("new", "distiller", "mine", "--to", "{disk}"),
)
LONG = "/".join(["d" * 200] * 18)
"""A path of 3,600 characters, which some systems take and others refuse."""


@define
class Disks(Campaign):
    """Lets the disk fail under a run, which must go on to the same bits afterwards, or under a command."""

    name: ClassVar[str] = "disks"
    whole: Path = field(init=False)
    expected: dict[str, Any] = field(factory=dict)

    def prepare(self) -> None:
        """Carry out the run once on a disk with room."""
        work = self.folder / "made"
        make_photos(work / "images")
        self._write_recipe(work)
        outcome = self.desk.run(["run", "road.toml", "--run", "whole"], work, RUN_SECONDS)
        assert outcome.code == 0, outcome.output
        self.whole, self.expected = work / "whole", comparable(work / "whole")

    def attempt(self, rng: Random, folder: Path) -> list[str]:
        """Carry out one of the sorts."""
        sort = rng.choice((self._fills, self._vanishes, self._refuses, self._refuses))
        return [f"{sort.__name__.strip('_')}: {fault}" for fault in sort(rng, folder)]

    def _fills(self, rng: Random, folder: Path) -> list[str]:
        """A small disk under the run or its cache, which gets room after the run has failed."""
        disk = folder / "disk"
        disk.mkdir()
        size = rng.randrange(20, 3000)
        if not _mount(disk, size):
            return []
        try:
            self._write_recipe(folder)
            run, cache = (
                (disk / "run", disk / "cache") if rng.random() < 0.7 else (folder / "run", disk / "c")
            )
            words = ["run", "road.toml", "--run", run, "--cache", cache]
            first = self.desk.run(words, folder, RUN_SECONDS)
            found = first.faults()
            if first.code and not _is_told(first):
                found.append(f"the disk is not named: {first.output[-300:]}")
            subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
            found += self._same_after(words, folder, run) if first.code else self._differs(run)
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
        return [f"{size} KiB: {fault}" for fault in found]

    def _vanishes(self, rng: Random, folder: Path) -> list[str]:
        """Somebody deletes the run's folder while the run goes on."""
        self._write_recipe(folder)
        stage = rng.choice(("distill", "transfer"))
        (folder / "vanishes.py").write_text(VANISHES.format(stage=stage))
        words = ["run", "road.toml", "--run", "run"]
        first = self.desk.run([*words, "--plugin", "./vanishes.py"], folder, RUN_SECONDS)
        found = first.faults()
        if not first.code or "run" not in first.output:
            found.append(f"nothing is said: {first.output[-300:]}")
        return found + self._same_after(words, folder, folder / "run")

    def _refuses(self, rng: Random, folder: Path) -> list[str]:
        """A command's target is full, read-only, a file, too long, or in what is no folder."""
        (folder / "file").write_text("in the way")
        disk = folder / "disk"
        disk.mkdir()
        sort = rng.choice(("full", "read-only", "too long", "a file", "no folder", "a device"))
        places = {"too long": LONG, "a file": "file", "no folder": "file/below", "a device": "/dev/full"}
        is_mounted = sort in ("full", "read-only") and _mount(disk, 4)
        try:
            if is_mounted and sort == "read-only":
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            elif is_mounted:
                (disk / "filler").write_bytes(bytes(4096))
            elif sort in ("full", "read-only"):
                return []
            images = self.whole.parent / "images"
            words = [
                word.format(whole=self.whole, images=images, disk=places.get(sort, "disk"))
                for word in rng.choice(COMMANDS)
            ]
            outcome = self.desk.run(words, folder, 60.0)
        finally:
            if is_mounted:
                subprocess.run(["umount", "-l", str(disk)], check=True)
        found = outcome.faults()
        if not outcome.code and words[0] != "report" and sort != "too long":
            found.append("nothing is refused")
        if (folder / "file").read_text() != "in the way":
            found.append("a file was overwritten")
        return [f"{sort}, {words[0]}: {fault}" for fault in found]

    def _same_after(self, words: list[object], folder: Path, run: Path) -> list[str]:
        again = self.desk.run(words, folder, RUN_SECONDS)
        if again.code:
            return [*again.faults(), f"the next run ends with {again.code}: {again.output[-300:]}"]
        return again.faults() + self._differs(run)

    def _differs(self, run: Path) -> list[str]:
        got = comparable(run)
        return [f"other bits in {name}" for name in self.expected if got.get(name) != self.expected[name]]

    def _write_recipe(self, folder: Path) -> None:
        (folder / "road.toml").write_text(ROAD_WITH_CACHE)


def _is_told(outcome: Outcome) -> bool:
    return any(words in outcome.output for words in ("the disk is full", "is full", "No space left"))


def _mount(folder: Path, kibibytes: int) -> bool:
    """Put a small disk in a folder's place, which root may do; without it these cases are left out."""
    if os.geteuid() or not shutil.which("mount"):
        return False
    words = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0
