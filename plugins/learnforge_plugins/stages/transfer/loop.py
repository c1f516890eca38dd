"""The loop around a phased strategy: what is frozen, whose batch statistics count, how epochs are judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.context import Context
from learnforge.errors import StageError
from learnforge.kinds.form import form_of
from learnforge.kinds.seen.network import Outputs
from learnforge.kinds.task import Batch, Task
from learnforge.kinds.transfer import Phase, PhasedTransfer
from learnforge.kinds.validator import Validator
from learnforge.randomness import seeded
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.networks.layers import read_layers
from learnforge_kit.networks.taps import Tapped
from learnforge_kit.training.loop import Companion, Trainee, fit
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.measured import Unlabelled
from learnforge_plugins.stages.transfer.freezing import freeze, set_training
from learnforge_plugins.stages.transfer.judgement import judge_without_labels

if TYPE_CHECKING:
    from learnforge_kit.training.domain import LabelledStatistics


class TransferLoop:
    """A network on its way to another task; a context manager that leaves the network free of hooks
    and trainable.

    Args:
        method: The strategy.
        network: The network that it prepared, on the device; changed in place.
        here: The new task, loaded on the device.
        labelled: The task whose labels are learnt from: the new one, but for domain adaptation.
        validator: What judges an epoch of a domain adaptation; None for accuracy on `labelled`.
        context: Seed, device, folder and hooks.
    """

    def __init__(
        self,
        method: PhasedTransfer,
        network: nn.Module,
        here: Task,
        labelled: Task,
        validator: Validator | None,
        context: Context,
    ):
        self.network, self.here, self.labelled = network, here, labelled
        self.validator, self.context = validator, context
        self.adapts_domain = method.adapts_domain
        self.companions = here.unlabelled if method.uses_unlabelled else None
        if method.adapts_domain:
            self.companions = here.train
        images, _, _ = next(iter(here.train.batches(torch.arange(min(4, len(here.train))), 4)))
        shown = Normaliser(here.info, context.device)(images)
        layers = read_layers(network.eval(), shown)
        self.tapped = Tapped(layers, method.taps(layers))
        self.statistics: LabelledStatistics | None = None
        if self.adapts_domain:
            from learnforge_kit.training import domain  # most transfers need none of it

            self.statistics = domain.LabelledStatistics(network)
        self.batch_size: int | None = None
        try:
            with seeded(context.derive("criterion")):
                with torch.no_grad():
                    outputs = self.tapped(shown)
                self.criterion = method.criterion(network, outputs, here.info)
                blank = Outputs(torch.zeros(0, *outputs.logits.shape[1:]), run=self.tapped)
                self.turns = method.turns(self.criterion, blank)
        except BaseException:
            self.tapped.close()
            raise

    def __enter__(self) -> TransferLoop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.tapped.close()
        self.network.requires_grad_(True)

    def train_phase(self, phase: Phase, train: Train, part: str) -> list[dict[str, Any]]:
        """Train one phase, and return its history."""
        self.batch_size = train.eval_batch_size
        parts = [module for module in (self.criterion, self.statistics) if isinstance(module, nn.Module)]
        extra = nn.ModuleList(parts).to(self.context.device)
        trainee = Trainee(
            self.network,
            self._loss,
            freeze(self.network, phase),
            extra if parts else None,
            lambda: set_training(self.network, phase),
            turns=self.turns,
        )
        return fit(
            trainee,
            self.labelled.train,
            self.labelled.info,
            train,
            evolve(self.context, seed=self.context.derive("train", part)),
            part,
            self._validate,
            Companion(self.companions, self.here.info) if self.companions is not None else None,
            measure=form_of(self.here.info.form).measured[0] if self.validator is None else "validator",
        )

    def judge(self) -> Unlabelled:
        """Judge the network by what needs no label of the new task; see `judge_without_labels`."""
        statistics = self.statistics.in_place() if self.statistics is not None else None
        return judge_without_labels(
            self.network, self.here, self.labelled, self.validator, statistics, self.batch_size
        )

    def _loss(self, batch: Batch, other: Batch | None = None) -> Tensor:
        if other is None:
            return self.criterion(self.tapped(batch.images), batch, None, None)
        if self.statistics is None:
            return self.criterion(self.tapped(batch.images), batch, self.tapped(other.images), other)
        with self.statistics.in_place():
            outputs = self.tapped(batch.images)
        seen = [_in_single_precision(each) for each in (outputs, self.tapped(other.images))]
        with torch.autocast(batch.images.device.type, enabled=False):  # distances are small differences
            return self.criterion(seen[0], batch, seen[1], other)

    def _validate(self) -> float:
        return self.judge().score


def _in_single_precision(outputs: Outputs) -> Outputs:
    taps = {name: tensor.float() for name, tensor in outputs.taps.items()}
    return evolve(outputs, logits=outputs.logits.float(), taps=taps)


def share_epochs(phases: Sequence[Phase], train: Train) -> list[Train]:
    """Share out `train.epochs`: phases of their own length first, the rest evenly among the others, the first
    of them longer where it does not divide.

    Raises:
        StageError: Phases of their own length take more than there is, or leave less than an epoch for each
            of the others.
    """
    fixed = sum(phase.epochs or 0 for phase in phases)
    if fixed > train.epochs:
        raise StageError(
            f"the method's phases take {fixed} epochs, `train.epochs` allows {train.epochs}; raise it, or "
            f"shorten the phases, so that the baseline has the same budget"
        )
    rest = train.epochs - fixed
    left = sum(phase.epochs is None for phase in phases)
    if 0 < rest < left:
        raise StageError(
            f"`train.epochs` must leave an epoch for each of {left} phases, it leaves {rest}; raise it, or "
            f"ask for fewer phases"
        )
    lengths = []
    for phase in phases:
        epochs = phase.epochs if phase.epochs is not None else math.ceil(rest / left)
        if phase.epochs is None:
            rest, left = rest - epochs, left - 1
        lengths.append(evolve(train, epochs=epochs))
    return lengths
