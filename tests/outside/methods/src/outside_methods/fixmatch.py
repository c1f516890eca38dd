"""FixMatch: what the network is sure of on a weak view of an unlabelled image is the label of a strong one.

    loss = CE(s, y) + weight * mean over unlabelled images of 1[max p >= threshold] CE(s(strong), argmax p)
    p = softmax of the scores of the weak view, without gradient

Reference:
    Sohn, Berthelot, Li, Zhang, Carlini, Cubuk, Kurakin, Zhang & Raffel, FixMatch: simplifying semi-supervised
    learning with consistency and confidence, 2020. arXiv:2001.07685 (equations 3 and 4)
Differs:
    The strong view is a random rotation, shear and shift with a square cut out, not RandAugment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge, gt, le
from torch import Tensor, nn

from learnforge import Batch, Outputs, Phase, PhasedTransfer, TaskInfo, Transfer, apply_change, hookimpl
from learnforge_kit import NewHead


@frozen
class FixMatch(PhasedTransfer):
    """FixMatch.

    Args:
        weight: Weight of the unlabelled images, from 0.
        threshold: Confidence from which a guess counts, in (0, 1].
        strength: Size of the strong view's changes, from 0.
    """

    uses_unlabelled: ClassVar[bool] = True

    weight: float = field(default=1.0, validator=ge(0.0))
    threshold: float = field(default=0.95, validator=[gt(0.0), le(1.0)])
    strength: float = field(default=0.2, validator=ge(0.0))

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(network, NewHead(), new)

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({"": 1.0})]

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        assert other is not None
        assert other_batch is not None
        confidence, guesses = other.logits.detach().softmax(1).max(1)
        strong = other.run(self._strong(other_batch.images)).logits
        losses = F.cross_entropy(strong, guesses, reduction="none")
        unlabelled = (losses * (confidence >= self.threshold)).mean()
        return batch.loss(outputs.logits) + self.weight * unlabelled

    def _strong(self, images: Tensor) -> Tensor:
        count, _, height, width = images.shape
        change = self.strength * (2 * torch.rand(count, 2, 3, device=images.device) - 1)
        identity = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], device=images.device)
        grid = F.affine_grid(identity + change, list(images.shape), align_corners=False)
        moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        corner = (
            torch.rand(count, 2, 1, 1, device=images.device) * torch.tensor([height, width])[:, None, None]
        )
        rows = torch.arange(height, device=images.device)[:, None]
        columns = torch.arange(width, device=images.device)
        inside = [
            (own >= at) & (own < at + height / 4)
            for own, at in zip((rows, columns), corner.unbind(1), strict=True)
        ]
        return moved.masked_fill((inside[0] & inside[1])[:, None], 0.0)


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"fixmatch": FixMatch}
