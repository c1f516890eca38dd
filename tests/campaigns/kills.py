"""Runs that are killed at random moments, in every stage and with every executor, and gone on with."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any, ClassVar

from attrs import define, field

from tests.campaigns.campaign import Campaign
from tests.campaigns.desk import Outcome
from tests.campaigns.records import ROAD_WITH_CACHE, comparable
from tests.core.test_resume import ALWAYS_CHECKPOINT

RUN_SECONDS = 240.0
MOST_KILLS = 6
WAYS: tuple[tuple[str, ...], ...] = (
    (),
    ("--workers", "2"),
    ("--set", 'stage.search.executor={use="ray"}', "--set", "stage.search.batch=2"),
)
"""How a run is carried out: trials in its own process, in two others and in two actors of Ray."""


@define
class Kills(Campaign):
    """Kills a run and all its workers again and again, each time some seconds later, until it is done."""

    name: ClassVar[str] = "kills"
    expected: dict[str, Any] = field(factory=dict)
    seconds: float = 0.0

    def prepare(self) -> None:
        """Carry the run out once without a kill."""
        work = self.folder / "made"
        work.mkdir()
        outcome = self._run(work, (), RUN_SECONDS)
        assert outcome.code == 0, outcome.output
        self.expected, self.seconds = comparable(work / "run"), outcome.seconds

    def attempt(self, rng: Random, folder: Path) -> list[str]:
        """Kill a run up to six times, then let it end."""
        way, found = rng.choice(WAYS), []
        for _ in range(rng.randrange(1, MOST_KILLS)):
            outcome = self._run(folder, way, rng.uniform(1.0, self.seconds / 2))
            if outcome.code is not None:
                break
            found += [fault for fault in outcome.faults() if "not done after" not in fault]
        outcome = self._run(folder, way, RUN_SECONDS)
        found += outcome.faults()
        if outcome.code == 0:
            got = comparable(folder / "run")
            found += [
                f"other bits in {name}" for name in self.expected if got.get(name) != self.expected[name]
            ]
        elif not found:
            found.append(f"exit status {outcome.code}: {outcome.output[-300:]}")
        return [f"{' '.join(way) or 'alone'}: {fault}" for fault in found]

    def _run(self, folder: Path, way: tuple[str, ...], limit: float) -> Outcome:
        (folder / "road.toml").write_text(ROAD_WITH_CACHE)
        (folder / "always_checkpoint.py").write_text(ALWAYS_CHECKPOINT)
        words = ["run", "road.toml", "--run", "run", "--plugin", "./always_checkpoint.py", *way]
        return self.desk.run(words, folder, limit)
