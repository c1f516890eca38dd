"""The kind `transfer`: carries a network to another task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen
from attrs.validators import ge, optional
from torch import Tensor, nn

from learnforge.context import Context
from learnforge.kinds.seen.network import Layers, Outputs
from learnforge.kinds.task import Batch, Task
from learnforge.spec import TaskInfo

if TYPE_CHECKING:
    from learnforge.kinds.seen.turns import Turn

TransferCriterion = Callable[[Outputs, Batch, Outputs | None, Batch | None], Tensor]


@frozen
class Phase:
    """A part of a training in which the same parameters are trained.

    Args:
        rates: {prefix of parameter names: factor on the learning rate}; the longest prefix that fits a name
            counts, "" fits every name, and what no prefix fits is frozen: its weights and its batch
            statistics do not change.
        epochs: Length; None for what the other phases leave of `train.epochs`.
        name: Name in progress and history.
    """

    rates: Mapping[str, float]
    epochs: int | None = field(default=None, validator=optional(ge(0)))
    name: str = "transfer"


class Transfer(ABC):
    """A method of the kind `transfer`. Derive from `PhasedTransfer` or `DirectTransfer`, not from this."""

    uses_labels: ClassVar[bool] = True
    """Whether labels of the new task are learnt from; a method that needs none is never chosen by one."""

    forms: ClassVar[frozenset[str] | None] = frozenset({"classification"})
    """Forms of tasks that it is for; None for all of them."""

    is_baseline: ClassVar[bool] = False
    """A yardstick for others, which need not beat a training from scratch on a task with few labels."""

    @abstractmethod
    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        """Return the network made ready for the new task: a new head, adapters. May change and return what it
        is given.

        Args:
            network: The network with its weights.
            old: The task that it was trained for.
            new: The task to carry it to.
        """

    def finish(self, network: nn.Module) -> nn.Module:
        """Return the network as it is handed on, what was only for training merged or removed; as it is,
        by default.

        It must have the layers that its model builds for the new task, since artifacts are loaded that way.
        """
        return network


class PhasedTransfer(Transfer):
    """A strategy that trains by gradient, in phases. The transfer stage owns the loop, checkpoints and frozen
    batch statistics.
    """

    adapts_domain: ClassVar[bool] = False
    """Train on labelled images of the source task, with unlabelled images of the new task as companions."""

    uses_unlabelled: ClassVar[bool] = False
    """Train with the task's split of unlabelled images as companions, as semi-supervised methods do."""

    @abstractmethod
    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        """Say what is trained, in which order, for how long and at which rates."""

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        """Return the scalar loss of a batch; by default that of the task's form, such as cross-entropy.

        Args:
            outputs: Class scores [batch, class] and taps.
            batch: Labelled images.
            other: The same for the companion batch, where the method adapts a domain or uses unlabelled
                images.
            other_batch: Unlabelled images of the new task; its labels are -1.
        """
        return batch.loss(outputs.logits)

    def taps(self, layers: Layers) -> Sequence[str]:
        """Name the layers whose outputs the loss needs, as `Layers.find` takes them; none by default."""
        return ()

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> TransferCriterion:
        """Return what is called for every batch: the method's own `loss` by default.

        A method with parts of its own (a discriminator, the weights at the start) returns an `nn.Module`
        called as `loss` is; its parameters are trained with the network, its buffers are checkpointed, and it
        is dropped at the end.

        Args:
            network: The network before the first phase.
            outputs: Its outputs for a few images, for shapes.
            task: The new task.
        """
        return self.loss

    def turns(self, criterion: TransferCriterion, network: Outputs) -> Sequence[Turn]:
        """Say which parts of the criterion are trained by steps of their own, in their order, before each
        step of the network; none by default. All others are trained with the network.

        Args:
            criterion: What `criterion` returned.
            network: Its `run` runs the network; there are no class scores.
        """
        return ()


class DirectTransfer(Transfer):
    """A strategy that does its own fitting: closed form, or at test time."""

    @abstractmethod
    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        """Return the fitted network.

        Args:
            network: What `prepare` returned, on the device.
            task: The new task, loaded on the device. Only a method that declares itself a test-time method in
                its docstring may read the images of the test split, and none its labels.
            context: Seed, device, checkpoints.
        """
