"""`python -m tests.campaigns --minutes 10`: campaigns in turn, for as long as there is time, then counts."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.campaigns.desk import Desk
from tests.campaigns.known import CAMPAIGNS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaigns; the exit status is 1 if any case has a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", choices=sorted(CAMPAIGNS), nargs="*", default=sorted(CAMPAIGNS))
    parser.add_argument("--seed", type=int, help="Of the first case; the next ones count on.")
    parser.add_argument("--cases", type=int, help="Stop each campaign after so many.")
    parser.add_argument("--keep", type=Path, help="Folder in which the cases with faults are kept.")
    given = parser.parse_args(arguments)
    first = random.randrange(10**6) if given.seed is None else given.seed
    end = time.monotonic() + 60 * given.minutes
    counts: Counter[str] = Counter()
    faulty: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as work, Desk() as desk:
        running = [CAMPAIGNS[name](desk, Path(work) / name) for name in given.only]
        for campaign in running:
            campaign.folder.mkdir()
            campaign.prepare()
        seed = first
        while time.monotonic() < end and seed - first != given.cases:
            for campaign in running:
                folder = campaign.folder / str(seed)
                folder.mkdir()
                faults = campaign.attempt(random.Random(seed), folder)
                counts[campaign.name] += 1
                faulty[campaign.name] += bool(faults)
                for fault in faults:
                    print(f"{campaign.name} --seed {seed}: {fault}", flush=True)  # noqa: T201
                if faults and given.keep:
                    shutil.copytree(folder, given.keep / f"{campaign.name}-{seed}", symlinks=True)
                shutil.rmtree(folder)
                shutil.rmtree(folder.parent / f".{folder.name}", ignore_errors=True)
            seed += 1
        print(f"\n{'campaign':<12}{'cases':>8}{'faulty':>8}")  # noqa: T201
        for campaign in running:
            print(f"{campaign.name:<12}{counts[campaign.name]:>8}{faulty[campaign.name]:>8}")  # noqa: T201
        print(  # noqa: T201
            f"{desk.commands} commands; the slowest that trains nothing took {desk.seconds:.1f} s, the most "
            f"memory was {desk.mebibytes:.0f} MiB; first seed {first}"
        )
    return int(any(faulty.values()))


if __name__ == "__main__":
    sys.exit(main())
