"""What every stage measures of the network that it hands on."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from learnforge.kinds.task import Split, Task
from learnforge_kit.costs.measuring import measure_cost, measure_latency
from learnforge_kit.data.images import as_png
from learnforge_kit.training.evaluation import calibration, confusion, fit_temperature, predict, score

MOST_CLASSES = 100
"""Classes up to which all confusions are kept; for a thousand they would be a million numbers."""


def judge(network: nn.Module, task: Task, prefix: str = "") -> dict[str, Any]:
    """Return validation and test accuracy, in [0, 1], the accuracy of each class on the test split (None for
    one without images), its most frequent mistakes, and, for up to `MOST_CLASSES` classes, all confusions;
    without a prefix also calibration and the images that are most wrong.

    This is where a stage reads the test split, once, when all that it chooses is chosen.

    Args:
        network: The finished network.
        task: The task, loaded on the network's device.
        prefix: Put before each name, such as `baseline_`.
    """
    held_out = predict(network, task.validation, task.info)
    logits = predict(network, task.test, task.info)
    counts = confusion(logits, task.test.labels)
    found = {
        f"{prefix}validation_accuracy": score(held_out, task.validation.labels).accuracy,
        f"{prefix}test_accuracy": score(logits, task.test.labels).accuracy,
        f"{prefix}class_accuracy": class_accuracies(counts),
        f"{prefix}mistakes": find_mistakes(counts),
    }
    if len(counts) <= MOST_CLASSES:
        found[f"{prefix}confusion"] = counts.tolist()
    if not prefix:
        found |= _confidence(held_out, logits, task)
    return found


def _confidence(held_out: Tensor, logits: Tensor, task: Task) -> dict[str, Any]:
    """Return how well a network knows what it knows, and where it is most wrong.

    Args:
        held_out: Class scores of the validation images.
        logits: Those of the test images.
        task: The task.
    """
    temperature = fit_temperature(held_out, task.validation.labels)
    plain = calibration(logits, task.test.labels)
    found = {
        "calibration_error": plain.error,
        "reliability": [list(own) for own in plain.bins],
        "most_wrong": find_most_wrong(logits, task.test),
    }
    if temperature is not None:
        scaled = calibration(logits / temperature, task.test.labels).error
        found |= {"temperature": temperature, "scaled_calibration_error": scaled}
    return found


def find_most_wrong(logits: Tensor, split: Split, most: int = 12) -> list[dict[str, Any]]:
    """Return the images of wrong predictions with the highest confidence: true and predicted label,
    confidence, and the image as PNG in base64, its longer side 96 pixels at most.
    """
    shares = logits.softmax(1).cpu()
    labels = split.labels.cpu()
    confidence, predicted = shares.max(1)
    wrong = (predicted != labels).nonzero().flatten()
    chosen = wrong[confidence[wrong].argsort(descending=True, stable=True)[:most]]
    images = [image.cpu() for part, _, _ in split.batches(chosen, most) for image in part]
    return [
        {
            "true": int(labels[place]),
            "predicted": int(predicted[place]),
            "confidence": float(confidence[place]),
            "image": as_png(image),
        }
        for place, image in zip(chosen.tolist(), images, strict=True)
    ]


def class_accuracies(counts: Tensor) -> list[float | None]:
    """Return the share of images of each class that are classified correctly; None without images.

    Args:
        counts: Images by true class (row) and predicted class (column), int64 [class, class].
    """
    totals, right = counts.sum(1).tolist(), counts.diagonal().tolist()
    return [own / total if total else None for own, total in zip(right, totals, strict=True)]


def find_mistakes(counts: Tensor, most: int = 20) -> list[list[int]]:
    """Return the most frequent mistakes as [true class, predicted class, images], most frequent first."""
    wrong = counts.clone().fill_diagonal_(0).flatten()
    frequent = wrong.sort(descending=True, stable=True).indices[:most].tolist()
    return [
        [place // len(counts), place % len(counts), int(wrong[place])] for place in frequent if wrong[place]
    ]


def measure_costs(network: nn.Module, task: Task) -> dict[str, float]:
    """Return a network's costs: parameters, multiply-adds, activation memory, and latency with one image and
    one thread.
    """
    costs = measure_cost(copy.deepcopy(network).to("meta"), task.info).as_metrics()
    return {**costs, "latency_ms": measure_latency(network, task.info)}
