"""Side-tuning: the network stays as it is, and a small one beside it learns what is missing.

    scores = base(x) + side(x)

Reference:
    Zhang, Sax, Zamir, Guibas & Malik, Side-tuning: a baseline for network adaptation via additive side
    networks, 2020. arXiv:1912.13503
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from learnforge import Change, Phase, PhasedTransfer, TaskInfo, Transfer, apply_change, hookimpl
from learnforge_kit import NewHead, find_head


class _Beside(nn.Module):
    def __init__(self, base: nn.Module, task: TaskInfo, width: int):
        super().__init__()
        self.base = base
        height, columns = ((extent + 1) // 2 for extent in task.input_shape[1:])
        self.side = nn.Sequential(
            nn.Conv2d(task.input_shape[0], width, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(width * height * columns, task.outputs),
        )
        self.side.to(next(base.parameters()).device)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.base(images) + self.side(images)
        return scores


@frozen
class SideNetwork(Change):
    """A convolution and a head beside the network.

    Args:
        width: Channels, from 1.
    """

    width: int = field(default=8, validator=ge(1))

    name: ClassVar[str] = "side-network"

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        return _Beside(network, task, self.width)


@frozen
class SideTuning(PhasedTransfer):
    """Side-tuning with a new head.

    Args:
        width: Channels of the side network, from 1.
    """

    width: int = field(default=8, validator=ge(1))

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(apply_change(network, NewHead(), new), SideNetwork(self.width), new)

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        assert isinstance(network, _Beside)
        return [Phase({"side": 1.0, f"base.{find_head(network.base, new)}": 1.0})]


@hookimpl
def learnforge_changes() -> dict[str, type[Change]]:
    return {SideNetwork.name: SideNetwork}


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"side-tuning": SideTuning}
