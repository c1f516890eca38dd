"""What a campaign is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import ClassVar

from attrs import define

from tests.campaigns.desk import Desk


@define
class Campaign(ABC):
    """One sort of mischief.

    Args:
        desk: Where commands are run.
        folder: The campaign's own folder.
    """

    name: ClassVar[str]
    desk: Desk
    folder: Path

    def prepare(self) -> None:
        """Make what all its cases start from."""

    @abstractmethod
    def attempt(self, rng: Random, folder: Path) -> list[str]:
        """Carry one case out in a new folder, and return its faults in words.

        Args:
            rng: Decides what is done; equal states give equal cases.
            folder: An empty folder for it.
        """


def attempt_cases(kind: type[Campaign], folder: Path, cases: int) -> list[str]:
    """Return the faults of a campaign's first cases, of the seeds from 0."""
    found = []
    with Desk() as desk:
        campaign = kind(desk, folder)
        campaign.prepare()
        for seed in range(cases):
            place = folder / str(seed)
            place.mkdir()
            found += [f"seed {seed}: {fault}" for fault in campaign.attempt(Random(seed), place)]
    return found
