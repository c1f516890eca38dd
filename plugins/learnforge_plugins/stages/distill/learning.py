"""Methods that train more than the student, and a teacher that learns beside it, as in mutual learning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from learnforge.errors import Problem
from learnforge.kinds.seen.network import Outputs
from learnforge.kinds.task import Batch
from learnforge_kit.networks.taps import Tapped

if TYPE_CHECKING:
    from learnforge_plugins.stages.distill.stage import DistillStage


def check_learning(stage: DistillStage, teachers: int) -> list[Problem]:
    """Find what does not go with a method that trains its teacher, or makes its own images.

    Args:
        stage: The stage.
        teachers: How many there are.
    """
    name = type(stage.method).__name__
    if not stage.method.trains_teacher:
        words = f"must be off: {name} makes its own images, which have no views"
        return [Problem("cache", words)] if stage.cache != "off" else []
    wrong = {
        "teacher": ("must be one network", teachers > 1),
        "cache": ("must be off", stage.cache != "off"),
        "generations": ("must be 1", stage.generations > 1),
        "assistants": ("must be 0", bool(stage.assistants)),
        "assistant_models": ("must be empty", bool(stage.assistant_models)),
        "teacher_precision": ("must be 32", stage.teacher_precision != "32"),
    }
    words = f"where the teacher learns too, as {name} has it"
    return [Problem(key, f"{want} {words}") for key, (want, is_wrong) in wrong.items() if is_wrong]


class LearningTeacher:
    """Answers with gradients, in training mode, by the weights that it has come to.

    Args:
        tapped: The network, and the layers that are listened to.
    """

    preparation = None
    """It is asked for every batch: what it says changes."""

    def __init__(self, tapped: Tapped):
        self.run, self.counts = tapped, {"asked": 0, "computed": 0}
        self.learns: nn.Module = tapped.network.requires_grad_(True)

    def answer(self, batch: Batch) -> Outputs:
        """Return what the teacher says of a batch."""
        for name in self.counts:
            self.counts[name] += len(batch.indices)
        return self.run(batch.images)

    def show(self, images: Tensor) -> Outputs:
        """Return what it says of a few images, for shapes."""
        self.learns.eval()
        return self.run(images)

    def finish(self, who: str) -> None:
        """End the training: it may have changed."""

    def close(self) -> None:
        """Stop listening."""
        self.run.close()
