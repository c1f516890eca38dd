"""What every stage measures of the network that it hands on."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from learnforge.evaluation import confusion, evaluate, predict, score
from learnforge.space import measure_cost, measure_latency
from learnforge.task import Task


def judge(network: nn.Module, task: Task, prefix: str = "") -> dict[str, Any]:
    """Return validation and test accuracy, in [0, 1], and the confusion counts of the test split.

    This is where a stage reads the test split, once, when all that it chooses is chosen.

    Args:
        network: The finished network.
        task: The task, loaded on the network's device.
        prefix: Put before each name, such as `baseline_`.
    """
    logits = predict(network, task.test, task.info)
    return {
        f"{prefix}validation_accuracy": evaluate(network, task.validation, task.info).accuracy,
        f"{prefix}test_accuracy": score(logits, task.test.labels).accuracy,
        f"{prefix}confusion": confusion(logits, task.test.labels),
    }


def weigh(network: nn.Module, task: Task) -> dict[str, float]:
    """Return a network's costs: parameters, multiply-adds, activation memory, and latency with one image and
    one thread.
    """
    costs = measure_cost(copy.deepcopy(network).to("meta"), task.info).as_metrics()
    return {**costs, "latency_ms": measure_latency(network, task.info)}
