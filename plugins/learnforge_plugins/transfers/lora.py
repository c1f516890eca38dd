"""Low-rank adapters: the old weights stay, and each layer learns a change of low rank.

    W = W0 + alpha / rank * B A        A in R^(rank x in), B in R^(out x rank)               (equation 3)

A starts at random and B at zero, so that training begins with the old network (section 4.1). A convolution's
weight is read as a matrix [out, in * height * width]. In the end the product is added to the weight: the
network that is handed on has its model's own layers and costs nothing more.

Reference:
    Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang & Chen, LoRA: low-rank adaptation of large language models,
    2021. arXiv:2106.09685
Differs:
    The new head is trained whole; batch statistics stay, as all else of the old network. Query, key and value
    of torch's attention are one matrix, and get one change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, gt
from torch import Tensor, nn
from torch.nn.utils import parametrize

from learnforge import Change, Phase, PhasedTransfer, StageError, TaskInfo, Transfer, apply_change, hookimpl
from learnforge_kit import NewHead, find_head, undo_change


@frozen
class LoRA(PhasedTransfer):
    """Low-rank adaptation of Hu et al.

    Args:
        rank: Rank of the change of each weight, from 1; a smaller matrix is changed in full rank.
        alpha: Size of the change, above 0; it is scaled by alpha / rank.
        layers: Names of the parts whose linear layers, convolutions and attention are adapted; all
            by default.
        head_rate: Learning rate of the head as a factor, above 0.
    """

    forms: ClassVar[frozenset[str] | None] = None

    rank: int = field(default=4, validator=ge(1))
    alpha: float = field(default=8.0, validator=gt(0.0))
    layers: tuple[str, ...] = ()
    head_rate: float = field(default=1.0, validator=gt(0.0))

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(apply_change(network, NewHead(), new), self._change, new)

    @property
    def _change(self) -> LowRank:
        return LowRank(self.rank, self.alpha, self.layers)

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        changes = [name for name, module in network.named_modules() if isinstance(module, _LowRank)]
        head = find_head(network, new)
        return [Phase({**dict.fromkeys(changes, 1.0), head: self.head_rate}, name="lora")]

    def finish(self, network: nn.Module) -> nn.Module:
        return undo_change(network, self._change)


@frozen
class LowRank(Change):
    """A change of low rank to the weights of a network's layers, but its head. Undone, it is added to them.

    Args:
        rank: Rank of the change of each weight, from 1; a smaller matrix is changed in full rank.
        alpha: Size of the change, above 0; it is scaled by alpha / rank.
        layers: Names of the parts whose linear layers, convolutions and attention are adapted; all
            by default.
    """

    rank: int = field(default=4, validator=ge(1))
    alpha: float = field(default=8.0, validator=gt(0.0))
    layers: tuple[str, ...] = ()

    name: ClassVar[str] = "low-rank"

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        head = find_head(network, task)
        named = dict(network.named_modules())
        unknown = [name for name in self.layers if name not in named]
        if unknown:
            raise StageError(f"layers must name parts of the network, {unknown} are none: {', '.join(named)}")
        adapted = [name for name in self._adapted(network) if name != head]
        if not adapted:
            raise StageError(f"the network has no linear layer or convolution but its head {head!r} to adapt")
        for name in adapted:
            layer = network.get_submodule(name)
            if parametrize.is_parametrized(layer):
                raise StageError(f"{name} must be a plain layer to be adapted, it is parametrized already")
            weight = _weight_of(layer)
            change = _LowRank(getattr(layer, weight), self.rank, self.alpha)
            parametrize.register_parametrization(layer, weight, change)
        return network

    def _adapted(self, network: nn.Module) -> list[str]:
        """List the layers that are adapted."""
        return [
            name
            for name, layer in network.named_modules()
            if _weight_of(layer)
            and (not self.layers or any(name == part or name.startswith(f"{part}.") for part in self.layers))
        ]

    def undo(self, network: nn.Module) -> nn.Module:
        for module in list(network.modules()):
            weight = _weight_of(module)
            changes = getattr(module, "parametrizations", {})
            if weight in changes and isinstance(changes[weight][-1], _LowRank):
                parametrize.remove_parametrizations(module, weight, leave_parametrized=True)
        return network


def _weight_of(layer: nn.Module) -> str:
    """Return the name of the weight of a layer that is adapted, or ""."""
    if isinstance(layer, nn.MultiheadAttention):
        return "in_proj_weight" if layer.in_proj_weight is not None else ""
    return "weight" if isinstance(layer, (nn.Linear, nn.Conv2d)) else ""


class _LowRank(nn.Module):
    """W0 -> W0 + alpha / rank * B A."""

    def __init__(self, weight: Tensor, rank: int, alpha: float):
        super().__init__()
        rows, columns = weight.shape[0], weight[0].numel()
        rank = min(rank, rows, columns)
        self.down = nn.Parameter(torch.empty(rank, columns, device=weight.device))  # A
        self.up = nn.Parameter(torch.zeros(rows, rank, device=weight.device))  # B
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.up @ self.down).view_as(weight)


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"lora": LoRA}


@hookimpl
def learnforge_changes() -> dict[str, type[Change]]:
    return {LowRank.name: LowRank}
