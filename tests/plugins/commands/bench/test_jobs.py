"""Jobs in processes, and the file of results."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from learnforge import Plugins
from learnforge_plugins.commands.bench.jobs import run_jobs
from learnforge_plugins.commands.bench.ledger import Ledger
from learnforge_plugins.commands.bench.summary import deviation, mean


def _look(plugins: Plugins, word: str) -> dict[str, Any]:
    if word == "fail":
        raise ValueError(word)
    if word == "sleep":
        time.sleep(600)
    return {
        "word": word,
        "pid": os.getpid(),
        "threads": torch.get_num_threads(),
        "kd": "kd" in plugins.names("distiller"),
    }


def test_jobs_run_in_processes_of_one_thread(plugins: Plugins) -> None:
    """Each job runs elsewhere, on one thread, with the plugins of this process."""
    found = list(run_jobs(_look, [("a",), ("b",), ("c",)], plugins, 2))
    assert sorted(result["word"] for result in found) == ["a", "b", "c"]
    assert os.getpid() not in {result["pid"] for result in found}
    assert all(result["threads"] == 1 and result["kd"] for result in found)


def test_a_fault_of_a_job_is_raised(plugins: Plugins) -> None:
    """An error ends the work, and comes out as it is."""
    with pytest.raises(ValueError, match="fail"):
        list(run_jobs(_look, [("fail",)], plugins, 1))


def test_a_fault_ends_the_jobs_in_flight(plugins: Plugins) -> None:
    """What other processes are doing is ended at once, and they are gone when the error comes out."""
    start, before = time.monotonic(), multiprocessing.active_children()
    with pytest.raises(ValueError, match="fail"):
        list(run_jobs(_look, [("sleep",), ("fail",), ("sleep",)], plugins, 2))
    assert time.monotonic() - start < 120
    assert multiprocessing.active_children() == before


def test_results_are_read_back_under_equal_conditions(tmp_path: Path) -> None:
    """What was kept under the same conditions comes back, torn lines and others are passed over."""
    ledger = Ledger(tmp_path / "deep" / "results.jsonl", {"data": 1})
    assert list(ledger.read()) == []
    ledger.append([{"value": 1.5}, {"value": 2.5}])
    Ledger(ledger.file, {"data": 2}).append([{"value": 9.0}])
    assert ledger.file is not None
    with ledger.file.open("a") as stream:
        stream.write('{"conditions": "')
    assert list(Ledger(ledger.file, {"data": 1}).read()) == [{"value": 1.5}, {"value": 2.5}]
    ledger.append([{"value": 3.5}])  # not on the torn line
    assert list(ledger.read()) == [{"value": 1.5}, {"value": 2.5}, {"value": 3.5}]
    Ledger(None, {}).append([{"value": 1.0}])
    assert list(Ledger(None, {}).read()) == []


def test_mean_and_deviation_by_hand() -> None:
    """Means of nothing are NaN, and one value has no spread."""
    assert (mean([1.0, 3.0]), deviation([1.0, 3.0])) == (2.0, pytest.approx(2**0.5))
    assert mean([]) != mean([])
    assert deviation([5.0]) == 0.0
