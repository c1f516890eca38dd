"""Judging a network by what needs no label of the new task."""

from __future__ import annotations

import contextlib
import math

from torch import nn

from learnforge.errors import StageError
from learnforge.kinds.task import Task
from learnforge.kinds.validator import Evidence, Validator
from learnforge_kit.training.evaluation import predict


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
