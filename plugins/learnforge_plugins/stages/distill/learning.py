"""A teacher that learns beside its student, as in mutual learning."""

from __future__ import annotations

from torch import Tensor, nn

from learnforge.kinds.seen.network import Outputs
from learnforge.kinds.task import Batch
from learnforge_kit.networks.taps import Tapped


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
