"""The kind `evaluator`: judges the designs of a search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from attrs import frozen
from torch import Tensor

from learnforge.context import Checkpoint, Context
from learnforge.kinds.searcher import View
from learnforge.kinds.space import Design, Space
from learnforge.kinds.task import Task


@frozen(eq=False)
class Trial:
    """A design to be judged, and what there is to do it with.

    Args:
        number: Number of the trial.
        design: The design, which limits and plugins have let pass.
        space: Builds its network.
        task: The task, on the device. Only training and validation split may be read.
        train: The stage's table `train`, as the kit reads it.
        shared: What `prepare` returned, on the device.
        context: Seed of the trial, device and plugins; it keeps no files.
        until: Epoch to train to, for now; None for all.
        checkpoint: Where the state of a training that may go on is kept as it stops, by `save(…,
            final=True)`; None where it will not go on.
    """

    number: int
    design: Design
    space: Space
    task: Task
    train: Any
    shared: Mapping[str, Tensor]
    context: Context
    until: int | None = None
    checkpoint: Checkpoint | None = None


class Evaluator(ABC):
    """A method of the kind `evaluator`: a frozen attrs class that judges designs.

    It is asked about designs that are allowed, and each of them once: limits, filters and plugins' vetoes
    come before, whatever the evaluator. The best designs are trained from scratch at the end of the search.
    """

    metrics: ClassVar[Sequence[str] | None] = None
    """What `evaluate` finds out, which objectives may name; None for what the task's form measures, such as
    `accuracy`, and `loss`."""

    has_rungs: ClassVar[bool] = False
    """It trains to `Trial.until`, keeps its state in `Trial.checkpoint` and goes on from there, so that
    `rungs` can stop trials early."""

    def prepare(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Mapping[str, Tensor]:
        """Do once, before the first trial, what all of them share, such as training a network whose weights
        designs inherit; nothing by default.

        Args:
            space: Builds networks.
            view: `view.random(rng)` draws designs that keep the limits as far as these are known without
                measuring, and that plugins let pass.
            task: The task, on the device. Only training and validation split may be read.
            train: The stage's table `train`.
            context: Seed, device, checkpoints, with which it goes on after a kill.

        Returns:
            {name: tensor}, handed to every trial, wherever it runs, and kept with the stage's artifact.
        """
        return {}

    @abstractmethod
    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        """Return the metrics of a design, numbers by the names in `metrics`. An error fails the trial alone.

        Called where trials run, also in other processes, with torch's generators seeded; its result must
        depend on nothing but the trial.
        """
