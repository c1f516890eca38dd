"""Fine-tuning: go on training a network's weights on the new task, under a new head.

The head alone first (`head_epochs`), so that its random start does not tear up the features, then all of the
network, the old layers at a lower rate than the head (linear probing, then fine-tuning).

Reference:
    Kumar, Raghunathan, Jones, Ma & Liang, Fine-tuning can distort pretrained features and underperform
    out-of-distribution, 2022. arXiv:2202.10054
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen
from attrs.validators import ge, gt
from torch import nn

from learnforge import Phase, PhasedTransfer, TaskInfo, Transfer, find_head, hookimpl, replace_head


@frozen
class FineTune(PhasedTransfer):
    """Fine-tuning.

    Args:
        head_epochs: Epochs in which only the new head is trained, of `train.epochs`, from 0.
        backbone_rate: Learning rate of the old layers as a factor on `train.learning_rate`, from 0, which
            freezes them.
        head_rate: Learning rate of the head as a factor, above 0.
    """

    head_epochs: int = field(default=0, validator=ge(0))
    backbone_rate: float = field(default=1.0, validator=ge(0.0))
    head_rate: float = field(default=1.0, validator=gt(0.0))

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        replace_head(network, old.outputs, new.outputs)
        return network

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        head = find_head(network, new.outputs)
        whole = Phase({"": self.backbone_rate, head: self.head_rate}, name="fine-tune")
        return (
            [Phase({head: self.head_rate}, self.head_epochs, "head"), whole] if self.head_epochs else [whole]
        )


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"fine-tune": FineTune}
