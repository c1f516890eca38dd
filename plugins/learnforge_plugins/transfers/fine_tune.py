"""Fine-tuning: go on training a network's weights on the new task, under a new head.

    rate of block b = backbone_rate * layer_decay^(blocks between b and the head)        discriminative rates
    loss = CE(s, y) + l2_sp / 2 * |w - w0|^2 + l2_sp_head / 2 * |head|^2                 (L2-SP, equation 2)

The head alone first (`head_epochs`), so that its random start does not tear up the features (linear probing,
then fine-tuning); then block after block (`unfreeze`), or all at once. w0 are the weights that the network
came with, which L2-SP pulls towards, where weight decay pulls towards nothing.

Reference:
    Howard & Ruder, Universal language model fine-tuning for text classification, 2018 (discriminative rates,
    gradual unfreezing). arXiv:1801.06146
    Kumar, Raghunathan, Jones, Ma & Liang, Fine-tuning can distort pretrained features and underperform
    out-of-distribution, 2022 (the head first). arXiv:2202.10054
    Li, Grandvalet & Davoine, Explicit inductive bias for transfer learning with convolutional networks, 2018
    (L2-SP). arXiv:1802.01483
Differs:
    Each step of the unfreezing is a training with its own schedule of rates; ULMFiT has one for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from attrs import field, frozen
from attrs.validators import ge, gt, le, optional
from torch import Tensor, nn

from learnforge import (
    Batch,
    Outputs,
    Phase,
    PhasedTransfer,
    StageError,
    TaskInfo,
    Transfer,
    TransferCriterion,
    apply_change,
    hookimpl,
)
from learnforge_kit import NewHead, find_blocks, find_heads


@frozen
class FineTune(PhasedTransfer):
    """Fine-tuning, of a whole network or of a part.

    Args:
        head_epochs: Epochs in which only the new head is trained, of `train.epochs`, from 0.
        backbone_rate: Learning rate of the old layers as a factor on `train.learning_rate`, from 0, which
            freezes them.
        head_rate: Learning rate of the head as a factor, above 0.
        layer_decay: Factor on the rate from each block to the one before it, in (0, 1].
        unfreeze: Steps in which the blocks are unfrozen after the head, last ones first; 0 trains all
            at once.
        freeze: Names of parts that stay as they are: a block, a layer or a parameter.
        freeze_blocks: Blocks from the input that stay as they are, from 0.
        train_share: Train the last blocks alone, with at most this share of all parameters, in (0, 1].
        l2_sp: Strength of the pull of the old layers towards the weights that they came with, from 0; use it
            with `train.weight_decay = 0`.
        l2_sp_head: Strength of the pull of the head towards nothing, from 0; only with `l2_sp`.
    """

    forms: ClassVar[frozenset[str] | None] = None

    head_epochs: int = field(default=0, validator=ge(0))
    backbone_rate: float = field(default=1.0, validator=ge(0.0))
    head_rate: float = field(default=1.0, validator=gt(0.0))
    layer_decay: float = field(default=1.0, validator=[gt(0.0), le(1.0)])
    unfreeze: int = field(default=0, validator=ge(0))
    freeze: tuple[str, ...] = ()
    freeze_blocks: int = field(default=0, validator=ge(0))
    train_share: float | None = field(default=None, validator=optional([gt(0.0), le(1.0)]))
    l2_sp: float = field(default=0.0, validator=ge(0.0))
    l2_sp_head: float = field(default=0.0, validator=ge(0.0))

    def __attrs_post_init__(self) -> None:
        if self.l2_sp_head and not self.l2_sp:
            raise ValueError(f"l2_sp_head is a part of l2_sp, which must be above 0, got {self.l2_sp}")

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(network, NewHead(), new)

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        heads = find_heads(network, new)
        rates = self._rates(network, heads)
        alone = Phase(dict.fromkeys(heads, self.head_rate), self.head_epochs or None, "head")
        first = [alone] if self.head_epochs or self.unfreeze else []
        names = [name for name in rates if name not in heads]
        last = [name for name in names if _holds_any(name, heads)]  # the block around a head
        steps = max(1, min(self.unfreeze, len(names)))
        phases = []
        for step in range(1, steps + 1):
            kept = [*names[len(names) - round(len(names) * step / steps) :], *last, *heads]
            part = {name: rates[name] for name in kept} | dict.fromkeys(self.freeze, 0.0)
            phases.append(Phase(part, name=f"unfreeze {step}" if self.unfreeze else "fine-tune"))
        return [*first, *phases]

    def _rates(self, network: nn.Module, heads: Sequence[str]) -> dict[str, float]:
        """Return the rate of every block that is trained, and of the head; from the input on."""
        self._check_names(network, heads)
        blocks = find_blocks(network)
        depth = next(number for number, name in enumerate(blocks) if _holds_any(name, heads))
        trained = blocks[self.freeze_blocks :]
        if self.train_share is not None:
            trained = [name for name in trained if name in self._affordable(network, blocks, heads)]
        rates = {
            name: self.backbone_rate * self.layer_decay ** abs(depth - blocks.index(name))
            for name in trained
            if name not in heads and not any(_holds(still, name) for still in self.freeze)
        }
        return {**rates, **dict.fromkeys(heads, self.head_rate)}

    def _affordable(self, network: nn.Module, blocks: Sequence[str], heads: Sequence[str]) -> set[str]:
        """Return the last blocks that together keep to `train_share`, the head's cost counted."""
        assert self.train_share is not None
        sizes = {name: p.numel() for name, p in network.named_parameters()}
        total, left = sum(sizes.values()), self.train_share * sum(sizes.values())
        left -= sum(size for name, size in sizes.items() if _is_in(name, heads))
        if left < 0:
            share = self.train_share - left / total
            raise StageError(
                f"train_share must be at least {share:.3g}, the share of the head ({', '.join(heads)}) "
                f"alone; it is {self.train_share}"
            )
        kept = set()
        for block in reversed(blocks):
            if block in heads:
                continue
            left -= sum(n for name, n in sizes.items() if _holds(block, name) and not _is_in(name, heads))
            if left < 0:
                break
            kept.add(block)
        return kept

    def _check_names(self, network: nn.Module, heads: Sequence[str]) -> None:
        parts = {name for name, _ in [*network.named_modules(), *network.named_parameters()]}
        blocks = find_blocks(network)
        unknown = [name for name in self.freeze if name not in parts or not name]
        if unknown:
            raise StageError(
                f"freeze must name parts of the network, {unknown} are none; its blocks: {', '.join(blocks)}"
            )
        if any(_holds_any(name, heads) for name in self.freeze) or self.freeze_blocks >= len(blocks):
            raise StageError(
                f"the new head ({', '.join(heads)}) must be trained, but it is frozen; the network has "
                f"{len(blocks)} blocks: {', '.join(blocks)}"
            )

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> TransferCriterion:
        if not self.l2_sp:
            return self.loss
        return _StartingPoint(self, network, find_heads(network, task))


class _StartingPoint(nn.Module):
    """The loss with the pull towards the weights at the start, which it remembers."""

    def __init__(self, method: FineTune, network: nn.Module, heads: Sequence[str]):
        super().__init__()
        self.method = method
        named = dict(network.named_parameters())
        # plain lists, so that the network's parameters do not become this module's
        self.old = [p for name, p in named.items() if not _is_in(name, heads)]
        self.new = [p for name, p in named.items() if _is_in(name, heads)]
        for number, parameter in enumerate(self.old):
            self.register_buffer(f"start_{number}", parameter.detach().clone())

    def forward(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        start = [self.get_buffer(f"start_{number}") for number in range(len(self.old))]
        pairs = [(p, w) for p, w in zip(self.old, start, strict=True) if p.requires_grad]
        moved = sum((p - w).square().sum() for p, w in pairs)
        size = torch.stack([p.square().sum() for p in self.new]).sum()
        pull = self.method.l2_sp / 2 * moved + self.method.l2_sp_head / 2 * size
        return self.method.loss(outputs, batch, other, other_batch) + pull


def _holds(prefix: str, name: str) -> bool:
    """Tell whether a part is, or contains, what has a name."""
    return name == prefix or name.startswith(f"{prefix}.")


def _holds_any(prefix: str, names: Sequence[str]) -> bool:
    return any(_holds(prefix, name) for name in names)


def _is_in(name: str, parts: Sequence[str]) -> bool:
    return any(_holds(part, name) for part in parts)


@hookimpl
def learnforge_transfers() -> dict[str, type[Transfer]]:
    return {"fine-tune": FineTune}
