"""What every stage measures of the network that it hands on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from attrs import evolve
from torch import Tensor, nn

from learnforge.kinds.form import form_of
from learnforge.kinds.task import Split, Task
from learnforge_kit.costs.measuring import measure_cost, measure_latency
from learnforge_kit.measured import MOST_CLASSES, Assessment, Confidence, NetworkCosts, beyond_accuracy
from learnforge_kit.training.evaluation import calibration, confusion, fit_temperature, predict, score


def judge(
    network: Callable[[Tensor], Tensor], task: Task, confidence: bool = True, batch_size: int | None = None
) -> Assessment:
    """Judge a finished network. This is where a stage reads the test split, once, when all that it chooses
    is chosen.

    Args:
        network: The finished network, or a function in its place.
        task: The task, loaded on the network's device.
        confidence: Whether to judge also how well it knows what it knows.
        batch_size: Images in a pass; see `predict`.
    """
    held_out = predict(network, task.validation, task.info, batch_size)
    logits = predict(network, task.test, task.info, batch_size)
    known, tested = (
        score(outputs, split.labels, task.info)
        for outputs, split in ((held_out, task.validation), (logits, task.test))
    )
    assessed = Assessment.of_scores(
        tested.measures,
        validation_accuracy=known.measures.get("accuracy"),
        validation_measures=beyond_accuracy(known.measures),
    )
    if not form_of(task.info.form).names_one_class:
        return assessed
    counts = confusion(logits, task.test.labels)
    return evolve(
        assessed,
        class_accuracy=class_accuracies(counts),
        mistakes=find_mistakes(counts),
        confusion=counts.tolist() if len(counts) <= MOST_CLASSES else None,
        confidence=_confidence(held_out, logits, task) if confidence else None,
        only_class=None if known.only is None else task.info.classes[known.only],
    )


def _confidence(held_out: Tensor, logits: Tensor, task: Task) -> Confidence:
    """Judge a network by its class scores of the validation and of the test images."""
    temperature = fit_temperature(held_out, task.validation.labels)
    plain = calibration(logits, task.test.labels)
    return Confidence(
        calibration_error=plain.error,
        reliability=[list(own) for own in plain.bins],
        most_wrong=find_most_wrong(logits, task.test),
        temperature=temperature,
        scaled_calibration_error=None
        if temperature is None
        else calibration(logits / temperature, task.test.labels).error,
    )


def find_most_wrong(logits: Tensor, split: Split, most: int = 12) -> list[dict[str, Any]]:
    """Return the images of wrong predictions with the highest confidence: true and predicted label,
    confidence, and the image as PNG in base64, its longer side 96 pixels at most; "" for what is no picture.
    """
    from learnforge_kit.data.pictures import as_png  # not every stage has mistakes to show

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
    wrong = counts.clone().fill_diagonal_(0)
    pairs = wrong.nonzero()
    times = wrong[pairs[:, 0], pairs[:, 1]]
    frequent = times.argsort(descending=True, stable=True)[:most]
    found = zip(pairs[frequent].tolist(), times[frequent].tolist(), strict=True)
    return [[*pair, count] for pair, count in found]


def measure_costs(network: nn.Module, task: Task) -> NetworkCosts:
    """Measure what a network costs, its latency with one image and one thread."""
    try:
        cost = measure_cost(copy.deepcopy(network).to("meta"), task.info)
    except RuntimeError:  # tensors that are no buffers do not follow it to the meta device
        cost = measure_cost(network, task.info)
    return NetworkCosts(
        parameters=cost.parameters,
        macs=cost.macs,
        peak_activation_bytes=cost.peak_activation_bytes,
        latency_ms=measure_latency(network, task.info),
    )
