"""What methods of unsupervised domain adaptation share: labelled source images, unlabelled ones of the
new task.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from learnforge.changes import apply_change
from learnforge.kinds.transfer import Phase, PhasedTransfer
from learnforge.spec import TaskInfo
from learnforge_kit.networks.heads import NewHead
from learnforge_kit.networks.normalisation import find_normalisations

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class DomainAdaptation(PhasedTransfer):
    """A strategy that learns from labelled images of `source_task` and unlabelled ones of the new task.

    All of the network is trained in one phase. Its head is kept where it has as many classes as the new task,
    whose classes are those of the labelled task, in their order.
    """

    adapts_domain: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return network if old.outputs == new.outputs else apply_change(network, NewHead(), new)

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({"": 1.0}, name="adapt")]


class LabelledStatistics(nn.Module):
    """Batch statistics of the labelled images, which stand in for the network's own while those pass.

    A step normalises each domain by its own batch, so each has its own running statistics to be judged by;
    the network keeps those of the new task (Chang et al., Domain-specific batch normalization for
    unsupervised domain adaptation, 2019. arXiv:1906.03950, with shared weights).

    Args:
        network: The network; its statistics are copied.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self._layers = list(find_normalisations(network))  # a plain list: they are the network's
        for number, layer in enumerate(self._layers):
            for name in _STATISTICS:
                self.register_buffer(f"{name}_{number}", getattr(layer, name).clone())

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the network use and update these statistics within a block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for number, layer in enumerate(self._layers):
            for name in _STATISTICS:
                own = getattr(layer, name)
                setattr(layer, name, self.get_buffer(f"{name}_{number}"))
                setattr(self, f"{name}_{number}", own)


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -ctx.strength * gradients[0], None


def reverse_gradient(tensor: Tensor, strength: float) -> Tensor:
    """Return the tensor itself, whose gradient comes back multiplied by `-strength`.

    Reference:
        Ganin et al., Domain-adversarial training of neural networks, 2016 (section 4.2). arXiv:1505.07818
    """
    reversed_: Tensor = _Reversal.apply(tensor, strength)
    return reversed_


def adversarial_strength(progress: float) -> float:
    """Return how strongly features work against the discriminator: 2 / (1 + exp(-10 p)) - 1, from 0 to 1.

    Args:
        progress: p, the share of the training that is done, in [0, 1].

    Reference:
        Ganin et al., Domain-adversarial training of neural networks, 2016 (section 5.2.2). arXiv:1505.07818
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1
