"""Judging a network on a split."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from attrs import frozen
from torch import Tensor, nn

from learnforge.kinds.form import form_of
from learnforge.kinds.task import Split
from learnforge.spec import TaskInfo
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.data.passes import images_at_once


@frozen
class Scores:
    """How well a network does on a split.

    Args:
        measures: What the task's form measures, by its names; for classification `accuracy`, the share of
            images classified correctly, in [0, 1].
        loss: Mean loss, as the form has it; for classification cross-entropy in nats.
        count: Number of images.
        only: The one class that the network names for every image, though they are of several; None where it
            tells them apart.
    """

    measures: Mapping[str, float]
    loss: float
    count: int
    only: int | None = None

    @property
    def value(self) -> float:
        """What stages choose by, the first of the measures; more is better."""
        return next(iter(self.measures.values()))

    @property
    def accuracy(self) -> float:
        """Share of images classified correctly, in [0, 1], where the form measures it."""
        return self.measures["accuracy"]


def predict(
    network: Callable[[Tensor], Tensor], split: Split, task: TaskInfo, batch_size: int | None = None
) -> Tensor:
    """Return a network's outputs, such as class scores, for a whole split, in order: float [image, outputs].

    Args:
        network: A module, put into eval mode, or any callable from normalised images to outputs.
        split: Images, loaded on the network's device.
        task: Normalisation.
        batch_size: Images in a pass; by default up to 512, and fewer where images are large.
    """
    size = batch_size or images_at_once(task.input_shape)
    if isinstance(network, nn.Module):
        network.eval()
    parts: list[Tensor] = []
    from learnforge_kit.networks.layout import channels_last  # meta-learning needs none of it

    device = split.labels.device
    with torch.inference_mode(), channels_last(network, task.input_shape, device):
        for images, _, _ in split.batches(torch.arange(len(split)), size):
            parts.append(network(Normaliser(task, images.device)(images)).float())
        return torch.cat(parts)


def score(outputs: Tensor, labels: Tensor, task: TaskInfo) -> Scores:
    """Score the outputs for a split, [image, …], against its labels, as the task's form does."""
    form, labels = form_of(task.form), labels.to(outputs.device)
    measures, loss = form.measures(outputs, labels, task), float(form.loss(outputs, labels))
    only = None
    if form.names_one_class:
        named = form.answers(outputs)
        is_constant = bool((named == named[:1]).all()) and not bool((labels == labels[:1]).all())
        only = int(named[0]) if is_constant else None
    return Scores({name: measures[name] for name in form.measured}, loss, len(labels), only)


def evaluate(
    network: Callable[[Tensor], Tensor], split: Split, task: TaskInfo, batch_size: int | None = None
) -> Scores:
    """Judge a network on a split, in eval mode; see `predict`."""
    return score(predict(network, split, task, batch_size), split.labels, task)


@frozen
class Calibration:
    """How well confidence, the share of the softmax that the predicted class gets, foretells being right.

    Args:
        error: Expected calibration error: how far confidence is from accuracy, averaged over bins by their
            images, in [0, 1].
        bins: Mean confidence, accuracy and number of images of each bin that has any.
    """

    error: float
    bins: tuple[tuple[float, float, int], ...]


def calibration(logits: Tensor, labels: Tensor, bins: int = 15) -> Calibration:
    """Compare confidence with accuracy in bins of equal width.

    Args:
        logits: Class scores, [image, class].
        labels: int64 [image].
        bins: How many.

    Reference:
        Guo, Pleiss, Sun & Weinberger, On calibration of modern neural networks, 2017. arXiv:1706.04599
        (equation 3)
    """
    logits, labels = logits.cpu(), labels.cpu()  # on a GPU sums in bins are not deterministic
    confidence, predicted = logits.double().softmax(1).max(1)
    right = (predicted == labels).double()
    places = (confidence * bins).ceil().long().clamp(1, bins) - 1
    counts = torch.bincount(places, minlength=bins)
    sums = [torch.bincount(places, values, minlength=bins) for values in (confidence, right)]
    found = [
        (float(sums[0][b] / counts[b]), float(sums[1][b] / counts[b]), int(counts[b]))
        for b in counts.nonzero().flatten().tolist()
    ]
    return Calibration(sum(abs(c - a) * n for c, a, n in found) / len(labels), tuple(found))


def fit_temperature(logits: Tensor, labels: Tensor, most: int = 10_000) -> float | None:
    """Return the number that class scores must be divided by for the least cross-entropy, in [0.05, 20].

    None where there is none in that range, as for scores of which all are right, and for scores that are
    not finite.

    Args:
        logits: Class scores of images that were not trained on, [image, class].
        labels: int64 [image].
        most: Images that are looked at, evenly chosen.

    Reference:
        Guo, Pleiss, Sun & Weinberger, On calibration of modern neural networks, 2017. arXiv:1706.04599
        (section 4.2: temperature scaling)
    """
    every = -(-len(labels) // most) or 1
    scores, labels = logits[::every].cpu().double(), labels[::every].cpu()
    low, high = math.log(0.05), math.log(20.0)

    def slope(log_temperature: float) -> float:
        """Return the sign of the loss's slope: mean expected score less the label's own, times 1 / T."""
        scaled = scores * math.exp(-log_temperature)
        expected = (scaled.softmax(1) * scores).sum(1)
        return float((scores.gather(1, labels[:, None]).squeeze(1) - expected).mean())

    is_all_right = bool((scores.argmax(1) == labels).all())  # then the less, the better, to rounding
    if is_all_right or not scores.isfinite().all() or slope(low) > 0 or slope(high) < 0:
        return None
    from scipy.optimize import brentq  # slow to import

    return math.exp(brentq(slope, low, high, xtol=1e-7))  # the loss is convex in 1 / T


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """Count images by true class (row) and predicted class (column): int64 [class, class]."""
    outputs = logits.shape[1]
    pairs = labels.cpu() * outputs + logits.argmax(1).cpu()
    return torch.bincount(pairs, minlength=outputs**2).view(outputs, outputs)
