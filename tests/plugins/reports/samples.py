"""What stages measured, made up, for tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from learnforge.report import RunSummary, StageSummary

SEARCH = {
    "validation_accuracy": 0.9,
    "test_accuracy": 0.875,
    "parameters": 1234,
    "macs": 5678,
    "latency_ms": 0.5,
    "peak_activation_bytes": 64,
    "class_accuracy": [0.9, 0.85],
    "mistakes": [],
    "trials": 3,
    "failed": 1,
    "repeats": 2,
    "refused": 4,
    "objectives": ["accuracy", "-macs"],
    "front": [0, 2],
    "history": [
        {
            "number": 0,
            "state": "evaluated",
            "design": {"width": 8},
            "metrics": {"accuracy": 0.5, "parameters": 10, "macs": 20},
            "seconds": 1.0,
        },
        {"number": 1, "state": "failed", "metrics": {}, "seconds": 1.0},
        {
            "number": 2,
            "state": "evaluated",
            "design": {"width": 8},
            "metrics": {"accuracy": 0.9, "parameters": 30, "macs": 60},
            "seconds": 2.0,
        },
    ],
}
META = {
    "ways": 5,
    "shots": 1,
    "normalisation": "support",
    "seen_upstream": [],
    "validation_is_seen": False,
    "measure": "accuracy",
    "engine": "vmap",
    "test": {
        "episodes": 600,
        "before": 0.2,
        "before_interval": 0.004,
        "after": 0.8,
        "after_interval": 0.01,
        "by_step": [[0.2, 0.004], [0.8, 0.01]],
    },
    "history": {
        "meta": [{"epoch": 15, "loss": 1.0, "accuracy": 0.5}, {"epoch": 30, "loss": 0.5, "accuracy": 0.8}]
    },
}


def summary(*stages: StageSummary) -> RunSummary:
    return RunSummary(Path("runs/x"), "x & y", "finished", 0, "cpu", 2, {"python": "3.11"}, stages)


def stage(kind: str, metrics: dict[str, object]) -> StageSummary:
    task = {"name": "shapes", "classes": ["a", "b"], "train": 1200, "validation": 0, "test": 30}
    return StageSummary(kind, kind, {"use": "method"}, "finished", 1.25, task, metrics)


TRANSFER = {
    "validation_accuracy": 0.9,
    "test_accuracy": 0.875,
    "parameters": 1234,
    "macs": 5678,
    "latency_ms": 0.5,
    "peak_activation_bytes": 64,
    "class_accuracy": [0.9, 0.25, None, 0.5],
    "mistakes": [[1, 3, 6], [1, 0, 2], [3, 1, 1]],
    "changes": ["1 → 3 channels: first convolution averaged", "5 → 4 classes: new head"],
    "source_accuracy": 0.95,
    "pairs": [["0 - zero", "0"], ["b", "b"]],
    "history": {"transfer": [{"epoch": 1, "loss": 1.0, "validator": 0.5}]},
}


def make_search(count: int = 12, noise: float = 0.0) -> dict[str, Any]:
    """Make a search in which `width` alone decides, among a category, a number and a choice that comes up at
    times.
    """
    history = []
    for number in range(count):
        design: dict[str, Any] = {"width": 8 * (number % 4), "op": "ab"[number % 2], "blocks": []}
        if number % 3 == 0:
            design["blocks"] = [{"kernel": 3}]
        metrics = {"accuracy": 0.5 + 0.1 * (number % 4), "parameters": 100 * (number % 4)}
        state = "stopped" if number == 5 else "evaluated"
        record = {"number": number, "state": state, "design": design, "metrics": metrics, "seconds": 1.0}
        history.append(record)
    return {"history": history, "objectives": ["accuracy", "-parameters"], "front": [3], "trials": count}
