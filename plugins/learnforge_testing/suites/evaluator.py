"""What every evaluator must keep to: metrics of the trial alone, allowed designs, and validation data."""

from __future__ import annotations

import copy
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from learnforge.context import Checkpoint, Context
from learnforge.kinds.evaluator import Evaluator, Trial
from learnforge.kinds.form import form_of
from learnforge.kinds.space import Design, Pick, Space
from learnforge.kinds.task import Task
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo
from learnforge_kit.data.splits import MemorySplit
from learnforge_kit.search.view import AllowedView
from learnforge_kit.training.settings import Train
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import needs, require
from learnforge_testing.toys import make_network, make_task

QUICK = Train(epochs=2, batch_size=20)
WIDTHS = (4, 8, 16)


@frozen
class Widths(Space):
    """Small convolutional networks of some widths, of which one is not allowed.

    Args:
        widths: Channels to choose from.
    """

    widths: tuple[int, ...] = WIDTHS

    def design(self, pick: Pick) -> Design:
        return {"width": pick.choice("width", self.widths)}

    def build(self, design: Design, task: TaskInfo) -> nn.Module:
        require(design["width"] != WIDTHS[-1], "designs must be drawn from the view, which knows the limits")
        return make_network(task, design["width"])


class EvaluatorSuite(MethodSuite):
    """Checks of an evaluator on small convolutional networks.

    Args:
        train: The stage's table `train`.
    """

    kind: ClassVar[str] = "evaluator"
    base: ClassVar[type] = Evaluator
    needs_reference: ClassVar[bool] = False
    train: ClassVar[Train] = QUICK

    def result(self) -> Any:
        shared = self._prepare(make_task())
        return [dict(shared), *(dict(self._judge(width, shared)) for width in WIDTHS[:2])]

    def test_metrics_are_finite_numbers(self) -> None:
        """Each name in `metrics` is a finite float for a design that can be trained."""
        found = self._judge(WIDTHS[0], self._prepare(make_task()))
        missing = [name for name in self._names() if name not in found]
        require(not missing, f"`metrics` must be found out, {', '.join(missing)} is missing")
        odd = {n: v for n, v in found.items() if not isinstance(v, float) or not math.isfinite(v)}
        require(not odd, f"metrics must be finite floats, got {odd}")

    def test_what_is_shared_is_tensors(self) -> None:
        """`prepare` returns {name: tensor}."""
        found = self._prepare(make_task())
        require(
            isinstance(found, Mapping)
            and all(isinstance(n, str) and isinstance(t, Tensor) for n, t in found.items()),
            f"`prepare` must return tensors by name, got {found!r:.200}",
        )

    def test_what_is_shared_is_left_alone(self) -> None:
        """A trial changes nothing that others share, and its order does not matter."""
        shared = self._prepare(make_task())
        before = {name: tensor.clone() for name, tensor in shared.items()}
        first = self._judge(WIDTHS[1], shared)
        self._judge(WIDTHS[0], shared)
        require(
            all(torch.equal(tensor, shared[name]) for name, tensor in before.items()),
            "a trial must not change what `prepare` returned",
        )
        require(
            first == self._judge(WIDTHS[1], shared), "a design must be judged the same after other trials"
        )

    def test_preparation_is_a_function_of_the_seed(self) -> None:
        """The same seed prepares the same tensors, and a second call begins afresh."""
        first, second = (self._prepare(make_task()) for _ in range(2))
        require(
            first.keys() == second.keys() and all(torch.equal(t, second[n]) for n, t in first.items()),
            "`prepare` must give the same tensors for the same seed",
        )

    def test_test_data_are_not_read(self) -> None:
        """Neither `prepare` nor a trial reads the test split, in any way."""
        task = without_test_images(make_task())
        shared = self._prepare(task)
        self._judge(WIDTHS[0], shared, task)

    @needs(lambda suite: bool(suite._names()), "the method finds out nothing itself")
    def test_better_data_are_judged_better(self) -> None:
        """Where labels can be learnt the first metric is another than where they are noise."""
        task = make_task()
        noise = evolve(
            task,
            train=_shuffled(task.train),  # type: ignore[arg-type]
            validation=_shuffled(task.validation),  # type: ignore[arg-type]
        )
        found = [self._judge(WIDTHS[1], self._prepare(data), data) for data in (task, noise)]
        name = self._names()[0]
        require(
            found[0][name] != found[1][name],
            f"{name} must depend on the data, it is {found[0][name]} for labels of any sort",
        )

    @needs(lambda suite: suite.method.has_rungs, "the method does not train little by little")
    def test_a_trial_goes_on_where_it_stopped(self) -> None:
        """Stopped after an epoch and gone on with from its checkpoint, a trial ends with the same metrics."""
        shared, kept = self._prepare(make_task()), _Memory()
        self._judge(WIDTHS[0], shared, until=1, checkpoint=kept)
        require(
            kept.file is not None,
            "a trial that stops at `until` must save its state in `checkpoint`, with `final=True`",
        )
        resumed = self._judge(WIDTHS[0], shared, until=self.train.epochs, checkpoint=kept)
        whole = self._judge(WIDTHS[0], shared)
        require(resumed == whole, f"a trial that goes on must end as a whole one, got {resumed} and {whole}")

    def _prepare(self, task: Task) -> Mapping[str, Tensor]:
        space = Widths()
        view = AllowedView(space, {}, lambda design: design["width"] != WIDTHS[-1])
        with tempfile.TemporaryDirectory() as folder:
            context = _context(Path(folder))
            made: Mapping[str, Tensor] = self.make().prepare(space, view, task, self.train, context)
        return made

    def _names(self) -> Sequence[str]:
        """List what the method finds out."""
        measured = (*form_of(make_task().info.form).measured, "loss")
        return measured if self.method.metrics is None else self.method.metrics

    def _judge(
        self,
        width: int,
        shared: Mapping[str, Tensor],
        task: Task | None = None,
        until: int | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Mapping[str, float]:
        trial = Trial(
            0,
            {"width": width},
            Widths(),
            task or make_task(),
            self.train,
            shared,
            _context(None),
            until,
            checkpoint,
        )
        found: Mapping[str, float] = self.make().evaluate(trial)
        return found


class _Forbidden(MemorySplit):
    """A split whose images nobody may ask for."""

    def batches(self, *arguments: Any) -> Any:
        raise AssertionError("the test split must not be read during a search")


def without_test_images(task: Task) -> Task:
    """Return a task whose test split nobody may read."""
    return evolve(task, test=_Forbidden(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.zeros(1)))


class _Memory(Checkpoint):
    """A checkpoint in memory."""

    def __init__(self) -> None:
        super().__init__(None)
        self.file: bytes | None = None

    def load(self, device: torch.device) -> dict[str, Any] | None:
        return None if self.file is None else dict(torch.load(io.BytesIO(self.file), weights_only=True))

    def save(self, make_state: Any, final: bool = False) -> None:
        if not final:
            return
        stream = io.BytesIO()
        torch.save(copy.deepcopy(dict(make_state())), stream)
        self.file = stream.getvalue()


def _context(folder: Path | None) -> Context:
    return Context("search", 3, torch.device("cpu"), Plugins(), folder)


def _shuffled(split: MemorySplit) -> MemorySplit:
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(1))
    return MemorySplit(split.images, split.labels[order])
