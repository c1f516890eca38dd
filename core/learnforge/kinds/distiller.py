"""The kind `distiller`: a loss between a student and its teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from learnforge.kinds.seen.network import Layers, Outputs
from learnforge.kinds.task import Batch, Task
from learnforge.spec import TaskInfo

if TYPE_CHECKING:
    from learnforge.kinds.seen.turns import Turn

Criterion = Callable[[Outputs, Outputs, Batch], Tensor]


class Distiller(ABC):
    """A method of the kind `distiller`: a frozen attrs class with a loss.

    The distill stage calls `taps` once, then `criterion` once, then what `criterion` returned for every
    batch, with the student in training mode and the teacher frozen, in eval mode and without gradient, unless
    the method says otherwise below.
    """

    forms: ClassVar[frozenset[str] | None] = frozenset({"classification"})
    """Forms of tasks that it is for; None for all of them."""

    trains_teacher: ClassVar[bool] = False
    """The teacher learns beside the student, by the same loss: it is in training mode, its outputs have
    gradients, and it need not know anything at first. The stage hands on the student."""

    shows_images: ClassVar[bool] = True
    """Student and teacher are run on the batch. A method that makes its own images says False: it gets
    outputs without class scores, whose `run` is all there is to them."""

    zero_at_teacher: ClassVar[Mapping[str, Any] | None] = None
    """A claim: options under which the loss is the soft term alone, zero and without gradient where the
    student's outputs equal the teacher's. None claims nothing.
    """

    @abstractmethod
    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """Return the scalar loss of a batch.

        Args:
            student: Class scores [batch, class] and taps of the student, those that `taps` asked for.
            teacher: The same of the teacher, without gradient.
            batch: Images, labels, indices and views.
        """

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        """Name the layers of student and teacher whose outputs the loss needs; none by default.

        A name is a layer's own, `stage 2`, `embedding` or `layer:input`, see `Layers.find`; the loss finds
        what the layer puts out in `Outputs.taps` by the same name. A method that asks for a teacher's layers
        takes one teacher, and its teacher cannot be cached.
        """
        return (), ()

    def needs_single_labels(self) -> bool:
        """Tell whether the teacher's part of the loss depends on which class an image is of, so that mixed
        images, which are of two, make no sense.
        """
        return False

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Criterion:
        """Return what is called for every batch: the method's own `loss` by default.

        A method with connectors or a memory bank returns an `nn.Module` called as `module(student, teacher,
        batch)`; its parameters are trained with the student's, its buffers are checkpointed, and it is
        dropped at the end.

        Args:
            student: Outputs for a few training images, for shapes.
            teacher: The same of the teacher.
            task: Sizes of the splits, classes.
        """
        return self.loss

    def turns(self, criterion: Criterion, student: Outputs, teacher: Outputs) -> Sequence[Turn]:
        """Say which parts of the criterion are trained by steps of their own, in their order, before each
        step of the student; none by default. All others are trained with the student.

        Args:
            criterion: What `criterion` returned.
            student: Its `run` runs the student; there are no class scores.
            teacher: The same of the teacher.
        """
        return ()

    def finish(self, student: nn.Module, criterion: Criterion, task: TaskInfo) -> nn.Module:
        """Return the student as it is handed on; as it is, by default.

        A method whose student answers through a part of the criterion, such as the teacher's own head behind
        a projector (SimKD), adds that part by `apply_change` and copies its weights. Also called before the
        training, to refuse a change that is not written down, and for each validation, both with a copy.

        Args:
            student: The trained student, in eval mode; it may be changed.
            criterion: What `criterion` returned, as it is after the training.
            task: What the student is for.
        """
        return student
