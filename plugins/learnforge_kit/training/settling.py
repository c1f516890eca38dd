"""Judging a network after a short training, whose batch statistics may lag behind its weights.

Batch normalisation keeps a moving average of the statistics of its batches, of which each step's share is a
tenth. After a few steps it still holds much of what it began with. The network may then tell training batches
apart, where it uses the batch's own statistics, and name one class for every image where it uses the average.

Reference:
    Ioffe & Szegedy, Batch normalization: accelerating deep network training by reducing internal covariate
    shift, 2015. arXiv:1502.03167 (section 3.1: inference uses the population's statistics)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from learnforge.kinds.task import Task
from learnforge.randomness import seeded
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.drawing import permutation
from learnforge_kit.networks.normalisation import find_normalisations, measure_statistics
from learnforge_kit.training.evaluation import Scores, evaluate

MOST_IMAGES = 2048
"""Training images that statistics are measured on."""

FAR_ABOVE = 0.1
"""Accuracy in training batches above that on validation images from which the statistics are to blame."""


def evaluate_trained(
    network: nn.Module, task: Task, batch_size: int, eval_batch_size: int | None = None
) -> Scores:
    """Judge a network on the validation split after its training.

    Where it names one class for every image and yet tells training batches apart, its batch statistics lag:
    they are measured anew, on training images, before it is judged.

    Args:
        network: The network, on the task's device; left in eval mode, perhaps with other statistics.
        task: The task, loaded on the network's device.
        batch_size: Images in a training batch.
        eval_batch_size: Images in a pass; see `evaluate`.
    """
    scores = evaluate(network, task.validation, task.info, eval_batch_size)
    if scores.only is None or not find_normalisations(network) or len(task.train) < 2:
        return scores
    if _accuracy_in_batches(network, task, batch_size) < scores.accuracy + FAR_ABOVE:
        return scores
    measure_statistics(network, (images for images, _ in _training_batches(task, batch_size)))
    return evaluate(network, task.validation, task.info, eval_batch_size)


def _training_batches(task: Task, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield normalised training images, mixed, with their labels."""
    order = permutation(0, len(task.train))[:MOST_IMAGES]
    for images, labels, _ in task.train.batches(order, max(2, batch_size)):
        yield Normaliser(task.info, images.device)(images), labels


def _accuracy_in_batches(network: nn.Module, task: Task, batch_size: int) -> float:
    """Return the accuracy on training images with each batch's own statistics."""
    training = copy.deepcopy(network).train()
    right, seen = 0, 0
    with torch.no_grad(), seeded(0):
        for images, labels in _training_batches(task, batch_size):
            if len(images) > 1:
                right += int((training(images).argmax(1) == labels).sum())
                seen += len(images)
    return right / seen
