"""Judging a network by what needs no label of the new task."""

from __future__ import annotations

import contextlib
import math

from torch import nn

from learnforge.errors import StageError
from learnforge.kinds.task import Task
from learnforge.kinds.validator import Evidence, Validator
from learnforge_kit.training.evaluation import predict, score
from learnforge_plugins.stages.measured import Unlabelled


def judge_without_labels(
    network: nn.Module,
    here: Task,
    labelled: Task,
    validator: Validator | None,
    statistics: contextlib.AbstractContextManager[None] | None = None,
    batch_size: int | None = None,
) -> Unlabelled:
    """Judge a network by what needs no label of the new task.

    Args:
        network: The network.
        here: The new task, loaded on the network's device.
        labelled: The labelled task, likewise.
        validator: What scores it, if anything.
        statistics: Puts the labelled task's batch statistics into the network for a block.
        batch_size: Images in a pass; see `predict`.

    Raises:
        StageError: The score is not finite.
    """
    with statistics or contextlib.nullcontext():
        known = predict(network, labelled.validation, labelled.info, batch_size)
    labels = labelled.validation.labels.to(known.device)
    accuracy = score(known, labels, labelled.info).value
    if validator is None:
        return Unlabelled(source_accuracy=accuracy)
    own = predict(network, here.validation, here.info, batch_size)
    found = float(validator.score(Evidence(known, labels, own)))
    if not math.isfinite(found):
        raise StageError(f"a validator's score must be finite, {type(validator).__name__} gave {found}")
    return Unlabelled(source_accuracy=accuracy, validator=found)
