"""A comparison: every entry runs with every seed, in worker processes; results are kept, and gone on from.

What is compared, and how one entry runs for one seed, is a `Comparison`'s to say, one class for each kind
of method.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

from attrs import asdict, frozen

from learnforge.context import Progress
from learnforge.plugins.registry import Plugins
from learnforge_plugins.commands.bench.entries import Entry
from learnforge_plugins.commands.bench.jobs import run_jobs
from learnforge_plugins.commands.bench.ledger import Ledger
from learnforge_plugins.commands.bench.report import Report

Results = Mapping[Any, Sequence[Any]]
"""{key: results by seed}, keys as in `Comparison.keys`."""


def count_seeds(found: Results) -> int:
    """Return the number of results of each key."""
    return len(next(iter(found.values())))


@frozen(eq=False)
class Job:
    """One entry with one seed.

    Args:
        entry: What runs.
        seed: Its seed.
        is_final: Whether it is judged on the test split, otherwise on the validation split.
        conditions: Fingerprint of all else that the result depends on.
        case: What distinguishes it from other jobs of the entry with the same seed.
    """

    entry: Entry
    seed: int
    is_final: bool = False
    conditions: str = ""
    case: tuple[Any, ...] = ()


class Comparison(ABC):
    """What all entries of a comparison share, and how they run. A subclass is a frozen attrs class.

    Its results are frozen attrs classes of plain values, with an `entry`, which is its key, and a `seed`.
    """

    command: ClassVar[str]
    """The command's name, after `learnforge bench`."""

    ledger: ClassVar[str]
    """The file in the folder that results are kept in."""

    unit: ClassVar[str]
    """What progress counts."""

    heading: ClassVar[str]
    """Heading of the section on the page."""

    subject: ClassVar[str]
    """The column with the entries' names."""

    key_fields: ClassVar[tuple[str, ...]] = ("entry",)
    """Those fields of a result that make its key in `keys`."""

    is_each_alone: ClassVar[bool] = False
    """Whether each job needs a process of its own."""

    @property
    @abstractmethod
    def folder(self) -> Path | None:
        """Where results are kept and written; None keeps nothing."""

    @property
    @abstractmethod
    def device(self) -> str:
        """Where jobs run, as torch spells it."""

    @property
    @abstractmethod
    def conditions(self) -> Mapping[str, Any]:
        """What results depend on, entry and seed apart; JSON-able."""

    @abstractmethod
    def run(self, plugins: Plugins, job: Job) -> Any:
        """Run one job, in a worker process, and return its result."""

    @abstractmethod
    def load_result(self, data: Mapping[str, Any]) -> Any:
        """Return a result that was kept; None where it is of no use here."""

    @abstractmethod
    def report(self, entries: Sequence[Entry], found: Results, is_final: bool, plugins: Plugins) -> Report:
        """Say what came of it."""

    def prepare(self, plugins: Plugins, progress: Progress) -> None:
        """Make what all jobs need, once; by default nothing."""

    def keys(self, entries: Sequence[Entry]) -> dict[Any, tuple[Any, ...]]:
        """Return {key: (entry, *case)} of what runs with each seed."""
        return {entry.key: (entry,) for entry in entries}

    def clean(self) -> None:
        """Remove what jobs left behind, when results are written; by default nothing."""


def compare(
    entries: Sequence[Entry],
    comparison: Comparison,
    seeds: int,
    plugins: Plugins,
    progress: Progress,
    workers: int = 1,
    is_final: bool = False,
) -> dict[Any, list[Any]]:
    """Run every entry with every seed, in parallel; go on with what the folder already holds.

    Args:
        entries: What is compared.
        comparison: What they share.
        seeds: Results of each entry, with the seeds 0, 1, ….
        plugins: The plugins in use.
        progress: Shows how far it is.
        workers: Processes, one thread each.
        is_final: Judge on the test split.

    Returns:
        {key: results by seed}, keys as in `comparison.keys`.
    """
    file = comparison.folder / comparison.ledger if comparison.folder else None
    ledger = Ledger(file, {**comparison.conditions, "final": is_final})
    kept = [result for data in ledger.read() if (result := comparison.load_result(data)) is not None]
    key_of = attrgetter(*comparison.key_fields)
    found = {(key_of(result), result.seed): result for result in kept}
    comparison.prepare(plugins, progress)
    keys = comparison.keys(entries)
    wanted = [(key, seed) for seed in range(seeds) for key in keys]
    jobs = [
        (Job(entry, seed, is_final, ledger.conditions, tuple(case)),)
        for key, seed in wanted
        if (key, seed) not in found
        for entry, *case in [keys[key]]
    ]
    with progress.track(comparison.unit, len(wanted), len(wanted) - len(jobs)) as tracker:
        for result in run_jobs(comparison.run, jobs, plugins, workers, comparison.is_each_alone):
            found[key_of(result), result.seed] = result
            ledger.append([asdict(result)])
            tracker.advance()
    return {key: [found[key, seed] for seed in range(seeds)] for key in keys}
