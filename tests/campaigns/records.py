"""Runs whose files are damaged, through every command that reads them, and gone on with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import numpy as np
from attrs import define, field
from PIL import Image

from tests.campaigns.campaign import Campaign
from tests.campaigns.desk import MOST_SECONDS
from tests.core.recipes import ROAD
from tests.core.test_resume import ALWAYS_CHECKPOINT, results

RUN_SECONDS = 120.0
STOPS_AT = """
import os
from learnforge import hookimpl

@hookimpl
def learnforge_epoch_finished(stage, metrics):
    if stage == {stage!r} and metrics.get("part", "") and metrics["epoch"] >= {epoch}:
        os._exit(9)

@hookimpl
def learnforge_trial_finished(stage, trial):
    if stage == {stage!r} and {stage!r} == "search" and trial["number"] >= 2:
        os._exit(9)
"""
"""A plugin file that ends the process in the middle of a stage, as a kill would."""
ROAD_WITH_CACHE = ROAD.replace('kind = "distill"\n', 'kind = "distill"\ncache = "views"\n')
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("report", "{run}"),
    ("report", "{run}", "{whole}", "--to", "both.html"),
    ("check", "{run}"),
    ("cite", "{run}"),
    ("predict", "{stage}", "{images}"),
    ("predict", "{run}", "{images}", "--calibrated"),
    ("embed", "{stage}", "{images}", "--to", "features.npz"),
    ("adapt", "{run}", "--support", "{images}", "--to", "adapted"),
    ("export", "{stage}", "--use", "onnx", "--to", "exported"),
    ("profile", "{stage}", "--to", "script.py"),
)
OTHERS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1e400,
    2**70,
    "",
    "x",
    "../..",
    [],
    {},
    [[]],
    {"a": 1},
    "\x1b[2J",
)


@define
class Records(Campaign):
    """Damages one file of a whole or an unfinished run, then calls commands on it or lets it go on."""

    name: ClassVar[str] = "records"
    whole: Path = field(init=False)
    cut_off: list[Path] = field(factory=list)
    expected: dict[str, Any] = field(factory=dict)

    def prepare(self) -> None:
        """Run a road of five stages once, and once each up to the middle of a stage."""
        work = self.folder / "made"
        work.mkdir()
        (work / "road.toml").write_text(ROAD_WITH_CACHE)
        (work / "always_checkpoint.py").write_text(ALWAYS_CHECKPOINT)
        words = ["run", "road.toml", "--plugin", "always_checkpoint.py", "--run"]
        outcome = self.desk.run([*words, "whole"], work, RUN_SECONDS)
        assert outcome.code == 0, outcome.output
        self.whole, self.expected = work / "whole", comparable(work / "whole")
        for stage, epoch in (("search", 1), ("distill", 2), ("transfer", 3)):
            (work / f"stops_{stage}.py").write_text(STOPS_AT.format(stage=stage, epoch=epoch))
            outcome = self.desk.run(
                [*words, f"cut-{stage}", "--plugin", f"stops_{stage}.py"], work, RUN_SECONDS
            )
            assert outcome.code == 9, outcome.output
            self.cut_off.append(work / f"cut-{stage}")
        for name in ("one", "two"):
            (work / "images" / name).mkdir(parents=True)
            for number in range(3):
                noise = np.random.default_rng(number).integers(0, 255, (8, 8), np.uint8)
                Image.fromarray(noise).save(work / "images" / name / f"{number}.png")

    def attempt(self, rng: Random, folder: Path) -> list[str]:
        """Damage one file, then call a command or two, or let the run go on."""
        goes_on = rng.random() < 0.25
        origin = rng.choice(self.cut_off) if goes_on and rng.random() < 0.7 else self.whole
        beside = folder / "beside"
        beside.mkdir()
        (beside / "precious.txt").write_text("as it was")
        run = folder / "work" / "run"
        shutil.copytree(origin, run)
        shutil.copytree(origin.parent / ".cache", folder / "work" / ".cache")
        pool = run if rng.random() < 0.85 or not goes_on else folder / "work" / ".cache"
        file = rng.choice(sorted(path for path in pool.rglob("*") if path.is_file()))
        damage = rng.choice(DAMAGES)
        told = f"{damage.__name__.strip('_')} on {file.relative_to(folder / 'work')} of {origin.name}"
        damage(file, rng, beside)
        found = self._go_on(folder, damage) if goes_on else self._read(rng, folder)
        if (beside / "precious.txt").read_text() != "as it was" or len(list(beside.iterdir())) != 1:
            found.append("wrote outside the run's folder")
        return [f"{told}: {fault}" for fault in found]

    def _read(self, rng: Random, folder: Path) -> list[str]:
        run = folder / "work" / "run"
        stage = run / rng.choice(("search", "distill", "transfer", "meta", "export"))
        images, whole = self.whole.parent / "images", self.whole
        found = []
        for words in rng.sample(COMMANDS, 3):
            filled = [w.format(run=run, stage=stage, images=images, whole=whole) for w in words]
            outcome = self.desk.run(filled, folder / "work", MOST_SECONDS)
            found += outcome.faults()
        return found

    def _go_on(self, folder: Path, damage: Callable[..., None]) -> list[str]:
        shutil.copy(self.whole.parent / "road.toml", folder / "work")
        shutil.copy(self.whole.parent / "always_checkpoint.py", folder / "work")
        words = ["run", "road.toml", "--plugin", "always_checkpoint.py", "--run", "run"]
        outcome = self.desk.run(words, folder / "work", RUN_SECONDS)
        found = outcome.faults()
        if outcome.code == 0:
            got = comparable(folder / "work" / "run")
            found += [
                f"other bits in {name}" for name in self.expected if got.get(name) != self.expected[name]
            ]
        elif "run" not in outcome.output:
            found.append(f"refused without naming the run: {outcome.output[-300:]}")
        return found


def comparable(run: Path) -> dict[str, Any]:
    """Return what a run came to, without how much of it a cache has saved."""
    found = results(run)
    for _, metrics in found.values():
        metrics.pop("teacher_forwards", None)
    return found


def _flip(file: Path, rng: Random, beside: Path) -> None:
    """Change one bit."""
    data = bytearray(file.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        file.write_bytes(data)


def _scramble(file: Path, rng: Random, beside: Path) -> None:
    """Overwrite a page with noise."""
    data = bytearray(file.read_bytes())
    start = rng.randrange(len(data) + 1)
    data[start : start + 4096] = rng.randbytes(min(4096, len(data) - start))
    file.write_bytes(data)


def _cut(file: Path, rng: Random, beside: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: rng.randrange(len(data) + 1)])


def _empty(file: Path, rng: Random, beside: Path) -> None:
    file.write_bytes(b"")


def _remove(file: Path, rng: Random, beside: Path) -> None:
    file.unlink()


def _replace_by_folder(file: Path, rng: Random, beside: Path) -> None:
    file.unlink()
    file.mkdir()


def _replace_by_link(file: Path, rng: Random, beside: Path) -> None:
    file.unlink()
    file.symlink_to(beside / "precious.txt")


def _replace_by_pipe(file: Path, rng: Random, beside: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def _nest(file: Path, rng: Random, beside: Path) -> None:
    file.write_text('{"stages": ' + "[" * 100_000 + "]" * 100_000 + "}")


def _retype(file: Path, rng: Random, beside: Path) -> None:
    """Put another value into JSON, and noise into what is none."""
    try:
        data = json.loads(file.read_text("utf-8"))
    except ValueError:
        return _scramble(file, rng, beside)
    places = _places(data, ())
    path = rng.choice(places)
    holder = data
    for key in path[:-1]:
        holder = holder[key]
    if path:
        holder[path[-1]] = rng.choice(OTHERS)
    else:
        data = rng.choice(OTHERS)
    file.write_text(json.dumps(data))
    return None


def _places(data: Any, at: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [at, *(path for key, value in inner for path in _places(value, (*at, key)))]


DAMAGES: tuple[Callable[[Path, Random, Path], None], ...] = (
    *[_flip] * 3,
    *[_retype] * 8,
    _scramble,
    _cut,
    _empty,
    _remove,
    _replace_by_folder,
    _replace_by_link,
    _replace_by_pipe,
    _nest,
)
