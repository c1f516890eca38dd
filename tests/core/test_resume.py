"""A run that is killed at any moment ends with the same bits as one that was never cut off."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.core.recipes import ROAD

KILLS = 4
LATENCIES = {
    "latency_ms",
    "teacher_latency_ms",
    "network_latency_ms",
    "latency_64_ms",
    "network_latency_64_ms",
}
MEASURED = {"seconds", "time"} | LATENCIES
ALWAYS_CHECKPOINT = """
import learnforge.context
learnforge.context.CHECKPOINT_SECONDS = 0.0
"""


def start(folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """Run the recipe in a process of its own."""
    words = ["-m", "learnforge", "run", str(folder.parent / "road.toml"), "--run", str(folder)]
    plugin = ["--plugin", str(folder.parent / "always_checkpoint.py")]
    return subprocess.Popen(
        [sys.executable, *words, *plugin, *more], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(folder: Path) -> None:
    process = start(folder)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors.decode()


def without_clocks(data: Any) -> Any:
    """Drop what is measured by the clock, which no two runs share."""
    if isinstance(data, dict):
        return {key: without_clocks(value) for key, value in data.items() if key not in MEASURED}
    if isinstance(data, list):
        return [without_clocks(item) for item in data]
    return data


def results(folder: Path) -> dict[str, Any]:
    """Return every stage's weights as bytes and its metrics."""
    stages = sorted(file.parent for file in folder.glob("*/artifact.json"))
    return {
        stage.name: (
            (stage / "weights.safetensors").read_bytes(),
            without_clocks(json.loads((stage / "metrics.json").read_text())),
        )
        for stage in stages
    }


def size_of(folder: Path) -> int:
    log = folder / "events.jsonl"
    return log.stat().st_size if log.exists() else 0


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL at random moments, each after some progress, changes no weight and no metric."""
    (tmp_path / "road.toml").write_text(ROAD)
    (tmp_path / "always_checkpoint.py").write_text(ALWAYS_CHECKPOINT)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(whole)
    seed = random.randrange(1000)
    rng = random.Random(seed)
    total = size_of(whole)
    moments = sorted(rng.uniform(0.02, 0.95) * total for _ in range(KILLS))
    for moment in moments:
        process = start(killed)
        while process.poll() is None and size_of(killed) < moment:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()
    finish(killed)
    expected, got = results(whole), results(killed)
    assert list(got) == ["distill", "export", "meta", "search", "transfer"]
    for name in expected:
        assert got[name][0] == expected[name][0], f"weights of {name} differ (seed {seed})"
        assert got[name][1] == expected[name][1], f"metrics of {name} differ (seed {seed})"
