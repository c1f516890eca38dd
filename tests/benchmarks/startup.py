"""What plugins cost before they do anything: listing 20 of them, and calling a hook that three implement.

    python tests/benchmarks/startup.py

Both ratios are measured side by side, in alternation; their bars are 2. The listing is `learnforge plugins`
with 20 fake distributions installed, against a bare process that imports what such a program needs. The hook
call is a guarded notification of learnforge's, against the same functions registered with pluggy alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
from pathlib import Path

import pluggy

from learnforge import Plugins, hookimpl
from learnforge.plugins.kinds import GROUP

PAIRS = 25
PLUGINS = 20
BARE = [sys.executable, "-c", "import importlib.metadata, click, rich"]
LISTING = [sys.executable, "-m", "learnforge", "plugins"]
CALLS = 20_000


def main() -> None:
    """Print a table of both ratios."""
    print(f"{'':34}{'bare':>10}{'ours':>10}{'ratio':>8}{'bar':>6}")
    report("list 20 plugins, ms", *measure_listing())
    report("call a hook of three, microseconds", *measure_calls())


def report(what: str, bare: float, ours: float) -> None:
    """Print one line."""
    print(f"{what:34}{bare:>10.2f}{ours:>10.2f}{ours / bare:>8.2f}{2:>6}")


def measure_listing() -> tuple[float, float]:
    """Return the median milliseconds of a bare process and of a listing."""
    with tempfile.TemporaryDirectory() as folder:
        install(Path(folder))
        environment = {**os.environ, "PYTHONPATH": folder}
        shown = subprocess.run(LISTING, env=environment, capture_output=True, text=True, check=True).stdout
        assert shown.count("learnforge-fake-") == PLUGINS
        pairs = [(clock(BARE, environment), clock(LISTING, environment)) for _ in range(PAIRS)]
    return statistics.median(bare for bare, _ in pairs), statistics.median(ours for _, ours in pairs)


def install(folder: Path) -> None:
    """Write the metadata of fake distributions, one searcher each, which want this version of learnforge."""
    for number in range(PLUGINS):
        info = folder / f"learnforge_fake_{number}-1.0.dist-info"
        info.mkdir()
        header = f"Metadata-Version: 2.1\nName: learnforge-fake-{number}\nVersion: 1.0\n"
        (info / "METADATA").write_text(header + "Requires-Dist: learnforge>=0.1\n")
        (info / "entry_points.txt").write_text(f"[learnforge]\nsearcher.fake{number} = fake_{number}\n")
        (folder / f"fake_{number}.py").touch()


def clock(command: list[str], environment: dict[str, str]) -> float:
    """Return the milliseconds that a process takes."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    return (time.perf_counter() - start) * 1e3


class Listener:
    """Hears of stages."""

    @hookimpl
    def learnforge_stage_started(self, stage: str, kind: str) -> None:
        """Do nothing."""


class Spec:
    """The same hook for pluggy alone."""

    @pluggy.HookspecMarker(GROUP)
    def learnforge_stage_started(self, stage: str, kind: str) -> None:
        """Hear of a stage."""


def measure_calls() -> tuple[float, float]:
    """Return the microseconds of a call with three implementations, pluggy's own and ours."""
    bare, ours = pluggy.PluginManager(GROUP), Plugins()
    bare.add_hookspecs(Spec)
    for number in range(3):
        listener = type(f"Listener{number}", (Listener,), {})()
        bare.register(listener)
        ours.add(type(f"Listener{number}", (Listener,), {})())
    relays = (bare.hook, ours.hook)
    rounds = [[timeit.timeit(lambda r=r: call(r), number=CALLS) for r in relays] for _ in range(PAIRS)]
    first, second = (statistics.median(column) / CALLS * 1e6 for column in zip(*rounds, strict=True))
    return first, second


def call(relay: pluggy.HookRelay) -> None:
    """Call the hook once."""
    relay.learnforge_stage_started(stage="search", kind="search")


if __name__ == "__main__":
    main()
