"""Short campaigns against runs: damaged files, disks that fail, kills."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaigns.campaign import attempt_cases
from tests.campaigns.disks import Disks
from tests.campaigns.kills import Kills
from tests.campaigns.records import Records


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("campaign", "cases"), [(Records, 4), (Disks, 3), (Kills, 1)])
def test_runs_survive(campaign: type, cases: int, tmp_path: Path) -> None:
    """They end with the same bits, or say what is wrong and where."""
    assert attempt_cases(campaign, tmp_path, cases) == []
