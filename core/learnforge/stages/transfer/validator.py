"""The hole that a validator fills: judging an adapted network without a label of the new task."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod

from attrs import frozen
from torch import Tensor, nn

from learnforge.errors import StageError
from learnforge.evaluation import predict
from learnforge.task import Task


@frozen(eq=False)
class Evidence:
    """What a validator may look at: class scores for validation images of both tasks, in eval mode.

    Args:
        source: Class scores of the labelled task, float [image, class].
        source_labels: Its labels, int64 [image].
        target: Class scores of the new task, whose labels are withheld, float [image, class].
    """

    source: Tensor
    source_labels: Tensor
    target: Tensor


class Validator(ABC):
    """A method of the kind `validator`: a frozen attrs class that scores a network by unlabelled images.

    The core calls `score` after each epoch of a domain adaptation; `weights = "best"` and `patience` go by
    it.
    """

    @abstractmethod
    def score(self, evidence: Evidence) -> float:
        """Return how good the network seems; finite, and higher is better.

        Args:
            evidence: Class scores for images of both tasks.
        """


def judge_without_labels(
    network: nn.Module,
    here: Task,
    labelled: Task,
    validator: Validator | None,
    statistics: contextlib.AbstractContextManager[None] | None = None,
) -> dict[str, float]:
    """Judge a network by what needs no label of the new task.

    Args:
        network: The network.
        here: The new task, loaded on the network's device.
        labelled: The labelled task, likewise.
        validator: What scores it, if anything.
        statistics: Puts the labelled task's batch statistics into the network for a block.

    Returns:
        `source_accuracy`, on the labelled task's validation images, in [0, 1], and `validator`, the score.

    Raises:
        StageError: The score is not finite.
    """
    with statistics or contextlib.nullcontext():
        known = predict(network, labelled.validation, labelled.info)
    labels = labelled.validation.labels.to(known.device)
    found = {"source_accuracy": float((known.argmax(1) == labels).double().mean())}
    if validator is not None:
        evidence = Evidence(known, labels, predict(network, here.validation, here.info))
        found["validator"] = float(validator.score(evidence))
        if not math.isfinite(found["validator"]):
            raise StageError(
                f"a validator's score must be finite, {type(validator).__name__} gave {found['validator']}"
            )
    return found
