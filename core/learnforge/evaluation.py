"""Judging a network on a split."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn

from learnforge.task import Split, TaskInfo


class Normaliser:
    """Turns bytes into what networks take: float, each channel with mean 0 and deviation 1 over the training
    split.

    Args:
        task: Gives mean and deviation.
        device: Where the images are.
    """

    def __init__(self, task: TaskInfo, device: torch.device):
        self._mean = torch.tensor(task.mean, device=device).view(-1, 1, 1) * 255
        self._scale = 1 / (torch.tensor(task.std, device=device).view(-1, 1, 1) * 255)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise uint8 [batch, channel, height, width] to float32."""
        return images.to(torch.float32).sub_(self._mean).mul_(self._scale)


@frozen
class Scores:
    """How well a network does on a split.

    Args:
        accuracy: Share of images classified correctly, in [0, 1].
        loss: Mean cross-entropy in nats.
        count: Number of images.
    """

    accuracy: float
    loss: float
    count: int


def predict(
    network: Callable[[Tensor], Tensor], split: Split, task: TaskInfo, batch_size: int = 512
) -> Tensor:
    """Return a network's class scores for a whole split, in order: float [image, outputs].

    Args:
        network: A module, put into eval mode, or any callable from normalised images to class scores.
        split: Images, loaded on the network's device.
        task: Normalisation.
        batch_size: Images in a pass.
    """
    if isinstance(network, nn.Module):
        network.eval()
    with torch.inference_mode():
        parts: list[Tensor] = []
        for images, _, _ in split.batches(torch.arange(len(split)), batch_size):
            parts.append(network(Normaliser(task, images.device)(images)).float())
        return torch.cat(parts)


def score(logits: Tensor, labels: Tensor) -> Scores:
    """Score class scores [image, outputs] against labels int64 [image]."""
    labels = labels.to(logits.device)
    accuracy = float((logits.argmax(1) == labels).double().mean())
    return Scores(accuracy, float(F.cross_entropy(logits, labels)), len(labels))


def evaluate(network: Callable[[Tensor], Tensor], split: Split, task: TaskInfo) -> Scores:
    """Judge a network on a split, in eval mode; see `predict`."""
    return score(predict(network, split, task), split.labels)


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Count images by true class (row) and predicted class (column): int64 [class, class]."""
    outputs = logits.shape[1]
    pairs = labels.cpu() * outputs + logits.argmax(1).cpu()
    return torch.bincount(pairs, minlength=outputs**2).view(outputs, outputs)
