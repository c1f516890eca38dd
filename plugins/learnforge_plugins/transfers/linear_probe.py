"""Linear probe: the network stays, and a linear classifier is fitted to its features, in seconds.

    features x = what goes into the head, or a layer's averaged output, computed once, then standardised
    logistic      min over W, b of  mean CE(W x + b, y) + strength / 2 * |W|^2                 by L-BFGS
    ridge         W = (X'X + strength * n * I)^-1 X'Y    with Y = one-hot labels or numbers, both centred
    nearest-mean  score of class c = 2 m_c x - |m_c|^2,  the class whose mean m_c is nearest

Each is a linear layer, which becomes the network's head; what comes after the layer of the features is cut
off. Without a given strength, the one with the best validation accuracy is taken.

Reference:
    Alain & Bengio, Understanding intermediate layers using linear classifier probes, 2016. arXiv:1610.01644
    Mensink, Verbeek, Perronnin & Csurka, Distance-based image classification: generalizing to new classes at
    near-zero cost, 2013 (nearest class mean). doi:10.1109/TPAMI.2013.83
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import gt, in_, min_len, optional
from torch import Tensor, nn

from learnforge import (
    Context,
    DirectTransfer,
    StageError,
    Task,
    TaskInfo,
    Transfer,
    apply_change,
    hookimpl,
)
from learnforge_kit import NewHead, cut_at, extract_features, find_head, score

_STRENGTHS = tuple(10.0**power for power in range(-6, 1))
_EMBEDDING = "embedding"
_STILL = 1e-6
"""Deviation below which a feature counts as constant."""
Fitted = tuple[Tensor, Tensor]
"""Weight [class, feature] and bias [class] of a head."""


@frozen
class LinearProbe(DirectTransfer):
    """A linear classifier on frozen features, or a linear regression.

    Args:
        classifier: `logistic`, `ridge` or `nearest-mean`; for tasks of numbers it must be `ridge`.
        strength: Strength of the regularisation, above 0; by default the one of 1e-6, 1e-5, …, 1 with the
            best validation accuracy, or R2 for numbers, the larger one of equals.
        balanced: Let every class count equally, whatever its share of the images.
        features: `embedding`, what goes into the network's head, or a layer whose output is averaged over
            height and width and becomes the network's end: its name, or `stage 2` from the first or
            `stage -2` from the last resolution. Earlier layers are more general and cheaper.
    """

    forms: ClassVar[frozenset[str] | None] = frozenset({"classification", "regression"})

    classifier: Literal["logistic", "ridge", "nearest-mean"] = field(
        default="logistic", validator=in_(("logistic", "ridge", "nearest-mean"))
    )
    strength: float | None = field(default=None, validator=optional(gt(0.0)))
    balanced: bool = False
    features: str = field(default=_EMBEDDING, validator=min_len(1))

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        if new.form == "regression" and (self.classifier != "ridge" or self.balanced):
            words = "must be `ridge`, and `balanced` false, for a task of numbers"
            raise StageError(f"classifier {words}; it is {self.classifier!r}")
        if self.features != _EMBEDDING:
            return cut_at(network, self.features, new)
        network = apply_change(network, NewHead(), new)
        head = network.get_submodule(find_head(network, new))
        if not isinstance(head, nn.Linear) or head.bias is None:
            raise StageError(f"the head must be a linear layer with bias to be fitted, it is {head}")
        return network

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        folder = context.folder
        known = extract_features(network, task.train, task.info, folder=folder)
        checked = extract_features(network, task.validation, task.info, folder=folder)
        mean, scale = known.mean(0), known.std(0, correction=0)
        scale[scale < _STILL] = 1.0  # a feature that never changes says nothing
        for features in (known, checked):
            features.sub_(mean).div_(scale)
        labels, answers = task.train.labels.cpu(), task.validation.labels.cpu()
        weight, bias = self._choose(known, labels, checked, answers, task.info)
        weight = weight / scale  # the standardisation becomes a part of the head
        head = network.get_submodule(find_head(network, task.info))
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.copy_(weight)
            head.bias.copy_(bias - weight @ mean)
        return network

    def _choose(
        self, known: Tensor, labels: Tensor, checked: Tensor, answers: Tensor, task: TaskInfo
    ) -> Fitted:
        """Fit with every strength, and return the fit with the best validation accuracy, or R2."""
        fits = self._solver()(known, labels, task.outputs, self._weights(labels), self._strengths())
        values = [score(checked @ weight.T + bias, answers, task).value for weight, bias in fits]
        return [fit for fit, value in zip(fits, values, strict=True) if value == max(values)][-1]

    def _strengths(self) -> tuple[float, ...]:
        if self.classifier == "nearest-mean":
            return (0.0,)
        return _STRENGTHS if self.strength is None else (self.strength,)

    def _solver(self) -> Callable[[Tensor, Tensor, int, Tensor, Sequence[float]], list[Fitted]]:
        return {"logistic": _logistic, "ridge": _ridge, "nearest-mean": _nearest_mean}[self.classifier]

    def _weights(self, labels: Tensor) -> Tensor:
        """Return the weight of each image: float [image], with mean 1."""
        if not self.balanced:
            return torch.ones(len(labels))
        counts = labels.bincount()
        return len(labels) / (counts[labels] * (counts > 0).sum())


def _logistic(
    features: Tensor, labels: Tensor, classes: int, weights: Tensor, strengths: Sequence[float]
) -> list[Fitted]:
    """Fit multinomial logistic regression to convergence, the strongest pull first, each from the last."""
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    found = []
    for strength in sorted(strengths, reverse=True):
        _minimise(weight, bias, features, labels, weights, strength)
        found.append((weight.detach().clone(), bias.detach().clone()))
    return found[::-1]


def _minimise(
    weight: Tensor, bias: Tensor, features: Tensor, labels: Tensor, weights: Tensor, strength: float
) -> None:
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=200,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> float:
        optimizer.zero_grad()
        losses = F.cross_entropy(features @ weight.T + bias, labels, reduction="none")
        value = (weights * losses).mean() + strength / 2 * weight.square().sum()
        value.backward()
        return float(value.detach())

    optimizer.step(loss)


def _ridge(
    features: Tensor, labels: Tensor, classes: int, weights: Tensor, strengths: Sequence[float]
) -> list[Fitted]:
    """Solve ridge regression onto one-hot labels, or numbers, out of sums over blocks of images."""
    blocks = zip(weights.split(4096), labels.split(4096), strict=True)
    share = sum((w[:, None] * _as_numbers(y, classes)).sum(0) for w, y in blocks) / weights.sum()
    mean = sum((w[:, None] * x).sum(0).double() for w, x, _ in _blocks(weights, features, labels))
    mean = mean / weights.sum()
    square = torch.zeros(len(mean), len(mean), dtype=torch.float64)
    product = torch.zeros(len(mean), classes, dtype=torch.float64)
    for w, x, y in _blocks(weights, features, labels):
        centred, shares = x - mean, (w / weights.sum()).double()[:, None]
        square += centred.T @ (shares * centred)
        product += centred.T @ (shares * (_as_numbers(y, classes) - share))
    values, vectors = torch.linalg.eigh(square)
    found = []
    for strength in strengths:
        weight = (vectors @ ((vectors.T @ product) / (values.clamp(min=0) + strength)[:, None])).T
        found.append((weight.float(), (share - weight @ mean).float()))
    return found


def _as_numbers(labels: Tensor, classes: int) -> Tensor:
    """Return labels as numbers to regress onto, float64 [image, output]."""
    return (labels if labels.is_floating_point() else F.one_hot(labels, classes)).double()


def _blocks(weights: Tensor, features: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the images a few thousand at a time."""
    return zip(weights.split(4096), features.split(4096), labels.split(4096), strict=True)


def _nearest_mean(
    features: Tensor, labels: Tensor, classes: int, weights: Tensor, strengths: Sequence[float]
) -> list[Fitted]:
    """Return the classifier by the nearest mean; a class without images is never named."""
    counts = labels.bincount(minlength=classes)
    sums = torch.zeros(classes, features.shape[1]).index_add_(0, labels, features)
    means = sums / counts.clamp(min=1)[:, None]
    bias = torch.where(counts > 0, -means.square().sum(1), torch.finfo(torch.float32).min)
    return [(2 * means, bias)]


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"linear-probe": LinearProbe}
