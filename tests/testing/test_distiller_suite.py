"""The distiller suite passes what is right, and each fault fails in the check that is meant for it.

Reference:
    https://example.org, which stands for the papers of the distillers made up here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from attrs import frozen
from tests.testing.breadth import BREADTHS, failed_checks
from torch import Tensor, nn

from learnforge import Batch, Distiller, Layers, Outputs, StageError, Task
from learnforge.kinds.distiller import Criterion
from learnforge_testing.suites.distiller import DistillerSuite


def soft(student: Tensor, teacher: Tensor) -> Tensor:
    """Return how far the student's probabilities are from the teacher's."""
    return F.kl_div(
        F.log_softmax(student, 1), F.log_softmax(teacher, 1), log_target=True, reduction="batchmean"
    )


@frozen
class Soft(Distiller):
    """Soft labels alone."""

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = {}

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return soft(student.logits, teacher.logits)


class Bank(nn.Module):
    """A connector between features, and a memory of the teacher's features."""

    def __init__(self, student: Tensor, teacher: Tensor, size: int):
        super().__init__()
        self.connect = nn.Sequential(
            nn.Linear(student.shape[1], 8), nn.BatchNorm1d(8), nn.Linear(8, teacher.shape[1])
        )
        self.register_buffer("memory", torch.zeros(size, teacher.shape[1]))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        memory: Tensor = self.memory  # type: ignore[assignment]
        memory[batch.indices] = 0.5 * memory[batch.indices] + 0.5 * teacher.taps["7"].to(memory.dtype)
        features = self.connect(student.taps["7"])
        return soft(student.logits, teacher.logits) + 0.1 * F.mse_loss(features, memory[batch.indices])


@frozen
class Remembering(Distiller):
    """Features go through a connector to a memory bank."""

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        return ["7"], ["7"]

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Criterion:
        return Bank(student.taps["7"], teacher.taps["7"], len(task.train))

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        raise AssertionError("the criterion is called instead")


@frozen
class Choosy(Soft):
    """Needs two images, and says so."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        if len(batch.labels) < 3:
            raise StageError(f"needs batches of three images, got {len(batch.labels)}")
        return soft(student.logits, teacher.logits)


# Faults


class Plain(Distiller):
    """Base of the broken ones: knows the networks, and claims nothing."""

    networks: ClassVar[list[Any]] = []

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        self.networks[:] = student.network, teacher.network
        return (), ()

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return soft(student.logits, teacher.logits)


@frozen
class PerImage(Plain):
    """Does not average."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return F.cross_entropy(student.logits, teacher.logits.softmax(1), reduction="none")


@frozen
class Freezing(Plain):
    """Freezes a layer of the student."""

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        student.network.get_submodule("0").requires_grad_(False)
        return (), ()


@frozen
class Seeping(Plain):
    """Lets gradients into the teacher."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        weight = self.networks[1][8].weight.requires_grad_()
        return soft(student.logits, teacher.logits) + 1e-3 * weight.square().sum()


@frozen
class Nudging(Plain):
    """Writes into the teacher."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        self.networks[1][1].num_batches_tracked += 1
        return soft(student.logits, teacher.logits)


@frozen
class Waking(Plain):
    """Puts a part of the teacher without batch statistics into training mode."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        self.networks[1][8].train()
        return soft(student.logits, teacher.logits)


@frozen
class Overclaiming(Soft):
    """Claims that cross-entropy is zero at the teacher, where only its gradient is."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return F.cross_entropy(student.logits, teacher.logits.softmax(1))


@frozen
class Idle(Soft):
    """Claims zero, and is zero everywhere but for the labels."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        distance = soft(student.logits, teacher.logits)
        return distance if student.logits.shape[0] > 12 else distance * 0


@frozen
class Overflowing(Plain):
    """Takes the logarithm of probabilities."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return -(teacher.logits.softmax(1) * student.logits.softmax(1).log()).sum(1).mean()


@frozen
class Imprecise(Plain):
    """Loses what bfloat16 cannot hold beside a thousand."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return soft(student.logits, (teacher.logits.to(student.logits.dtype) + 3000) - 3000)


class Loose(nn.Module):
    """A criterion with a part that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return soft(student.logits, teacher.logits)


@frozen
class Wasting(Plain):
    """Has a connector that nothing goes through."""

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Criterion:
        return Loose()


@frozen
class HandingOn(Plain):
    """Hands on a network that computes something else than what is written down."""

    def finish(self, student: nn.Module, criterion: Any, task: Any) -> nn.Module:
        student.register_forward_hook(lambda module, given, scores: 2 * scores)
        return student


@frozen
class Grafting(Plain):
    """Leaves a layer in the student."""

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        student.network.get_submodule("2").register_buffer("seen", torch.zeros(1))
        return (), ()


@frozen
class Listening(Plain):
    """Hooks into the student by itself."""

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        student.network.get_submodule("2").register_forward_hook(_ignore)
        return (), ()


def _ignore(*arguments: Any) -> None:
    """Listen to a layer in vain."""


@frozen
class Scribbling(Plain):
    """Writes into the teacher's scores."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return soft(student.logits, teacher.logits.mul_(0.5))


@frozen
class Spreading(Plain):
    """Divides by the number of images less one."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        count = len(batch.labels)
        return soft(student.logits, teacher.logits) * torch.tensor(count) / torch.tensor(count - 1)


@frozen
class Favouring(Plain):
    """Counts the first image more."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return soft(student.logits, teacher.logits) + soft(student.logits[:1], teacher.logits[:1])


@frozen
class Contrary(Plain):
    """Has the sign wrong."""

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        return -soft(student.logits, teacher.logits)


class Counter(nn.Module):
    """A criterion whose state is no buffer."""

    calls = 0

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        self.calls += 1
        return soft(student.logits, teacher.logits) / self.calls


@frozen
class Forgetful(Plain):
    """Counts steps where no checkpoint sees it."""

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Criterion:
        return Counter()


@pytest.mark.parametrize("method", [Soft, Remembering, Choosy], ids=lambda m: m.__name__)
def test_right_distillers_pass(method: type) -> None:
    """Losses, connectors with a memory bank, and a clear refusal of small batches pass."""
    assert [(o.name, o.words) for o in DistillerSuite.of(method).run() if o.state == "failed"] == []


@BREADTHS
@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (PerImage, "loss_is_a_scalar", "must be a scalar, its shapes are [(20,)]"),
        (Freezing, "gradients_reach_student_and_own_parts", "must give the student's 0.weight a gradient"),
        (Seeping, "gradients_reach_student_and_own_parts", "must get no gradient, its 8.weight got one"),
        (Nudging, "teacher_stays_as_it_is", "must not change, its 1.num_batches_tracked did"),
        (Waking, "teacher_stays_as_it_is", "must stay in eval mode"),
        (Overclaiming, "zero_at_teacher", "with {} the loss at the teacher must be 0, it is 0."),
        (Idle, "zero_at_teacher", "with {} the loss off the teacher must be > 0, it is 0.0"),
        (Overflowing, "extreme_scores_stay_finite", "with scores of ±10,000, the teacher's the other way"),
        (Imprecise, "bfloat16_is_close", "autocast to bfloat16 the loss must be about"),
        (Wasting, "own_parts_are_trained", "must be trained, unused.weight, unused.bias did not move"),
        (Grafting, "student_keeps_its_layers", "these differ: 2.seen"),
        (HandingOn, "artifact_builds_the_student", "all weights fit, and outputs differ"),
        (Listening, "no_hook_is_left", "after the stage no hook may be left, there are some on student: 2"),
        (Scribbling, "inputs_are_not_changed", "it changed teacher.logits"),
        (Spreading, "small_batches_work", "a batch of 1 must give a finite loss"),
        (Favouring, "order_of_a_batch_does_not_matter", "must have the same loss"),
        (Contrary, "student_learns", "must agree with its teacher on 60 % of images"),
        (Forgetful, "cut_off_training_ends_with_the_same_bits", "it differs in 0.weight"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_fault_fails_its_check(method: type, check: str, words: str, breadth: str) -> None:
    """A broken distiller fails the check that is meant for its fault, and no other."""
    failed = failed_checks(DistillerSuite.of(method), [check], breadth)
    assert list(failed) == [check], failed
    assert words in failed[check]


def test_claims_and_parts_decide_which_checks_run() -> None:
    """What a distiller does not claim, or does not have, is skipped with the reason."""
    skipped = {
        method.__name__: [check.name for check in DistillerSuite.of(method).checks() if check.skip]
        for method in (Soft, Remembering)
    }
    assert skipped == {
        "Soft": ["teacher_learns", "own_parts_are_trained", "artifact_builds_the_student"],
        "Remembering": [
            "teacher_learns",
            "zero_at_teacher",
            "order_of_a_batch_does_not_matter",
            "artifact_builds_the_student",
        ],
    }
