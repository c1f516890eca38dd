"""Transfer: the kind of stage `transfer`, the holes that a strategy fills, and the loop around them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from attrs.validators import ge, optional
from torch import Tensor, nn

from learnforge.artifact import Artifact, Provenance, load_weights, trained_on
from learnforge.context import Context
from learnforge.errors import Problem, StageError
from learnforge.evaluation import Normaliser, evaluate
from learnforge.hookspecs import hookimpl
from learnforge.layers import read_layers
from learnforge.options import plugin_field
from learnforge.randomness import seeded
from learnforge.stages.measures import judge, weigh
from learnforge.stages.stage import Reference, Stage
from learnforge.taps import Outputs, Tapped
from learnforge.task import Batch, Task, TaskInfo, TaskSource
from learnforge.training import Train, Trainee, cross_entropy, fit

Criterion = Callable[[Outputs, Batch, Outputs | None, Batch | None], Tensor]


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
        """Return the network as it is handed on, what was only for training merged or removed; as it is, by
        default.

        It must have the layers that its model builds for the new task, since artifacts are loaded that way.
        """
        return network


class PhasedTransfer(Transfer):
    """A strategy that trains by gradient, in phases. The core owns the loop, checkpoints and frozen batch
    statistics.
    """

    adapts_domain: ClassVar[bool] = False
    """Train on labelled images of the source task, with unlabelled images of the new task as companions."""

    @abstractmethod
    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        """Say what is trained, in which order, for how long and at which rates."""

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        """Return the scalar loss of a batch; cross-entropy by default.

        Args:
            outputs: Class scores [batch, class] and taps.
            batch: Labelled images.
            other: The same for the companion batch, where the method adapts a domain.
            other_batch: Unlabelled images of the new task; its labels are -1.
        """
        return F.cross_entropy(outputs.logits, batch.labels, label_smoothing=batch.label_smoothing)

    def taps(self, network: nn.Module) -> Sequence[str]:
        """Name the layers whose outputs the loss needs; none by default."""
        return ()

    def criterion(self, outputs: Outputs, task: TaskInfo) -> Criterion:
        """Return what is called for every batch: the method's own `loss` by default.

        A method with parts of its own (a discriminator) returns an `nn.Module` called as `loss` is; it is
        trained with the network and dropped at the end.

        Args:
            outputs: Outputs for a few images, for shapes.
            task: The new task.
        """
        return self.loss


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


@frozen(kw_only=True)
class TransferStage(Stage):
    """Carry a network's knowledge to another task.

    Args:
        source: TOML key `from`: the stage, artifact's folder or model to start from; the stage above by
            default.
        train: How the network is trained.
        baseline: Train the same network from fresh weights with the same budget, and report both.
        source_task: The labelled task of a domain adaptation.
    """

    source: Reference = plugin_field("model", default=None, reference=True, key="from")
    train: Train = Train()
    baseline: bool = True
    source_task: TaskSource | None = plugin_field("task", default=None)

    kind: ClassVar[str] = "transfer"
    method_kind: ClassVar[str] = "transfer"
    method_base: ClassVar[type] = Transfer

    @property
    def adapts_domain(self) -> bool:
        """Tell whether the method needs the labelled source task beside the new one."""
        return isinstance(self.method, PhasedTransfer) and self.method.adapts_domain

    def check(self, task: Task, inputs: Mapping[str, Artifact]) -> list[Problem]:
        problems = []
        if self.adapts_domain and self.source_task is None:
            problems.append(
                Problem("source_task", "is missing; this method adapts from a labelled source task")
            )
        source = inputs["source"]
        if source.task.input_shape != task.info.input_shape:
            want, got = list(task.info.input_shape), list(source.task.input_shape)
            problems.append(
                Problem("from", f"must take images of shape {want} as the task has, it takes {got}")
            )
        return problems

    def for_trial(self) -> TransferStage:
        return evolve(self, baseline=False)

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        here, source = task.load(context.device), inputs["source"]
        labelled = (
            self.source_task.load().load(context.device) if self.source_task and self.adapts_domain else here
        )
        network = source.network(context.plugins, context.derive("source"))
        with seeded(context.derive("prepare")):
            network = self.method.prepare(network, source.task, task.info).to(context.device)
        history = {"transfer": self._carry(network, source.task, here, labelled, context)}
        network = self.method.finish(network).eval()
        metrics = judge(network, here) | weigh(network, here)
        finished = self._as_artifact(source, network, task, labelled, context)
        if (
            self.baseline and source.spec.kind != "module"
        ):  # a caller's own module has no fresh weights to start from
            fresh = finished.network(context.plugins, context.derive("baseline"), task.info).to(
                context.device
            )
            history["from scratch"] = self._train_fresh(fresh, labelled, here, context)
            metrics |= judge(fresh, here, "baseline_")
        return evolve(finished, metrics=metrics | {"history": history})

    def _as_artifact(
        self, source: Artifact, network: nn.Module, task: Task, labelled: Task, context: Context
    ) -> Artifact:
        tasks = [task, labelled] if self.adapts_domain else [task]
        learnt = tuple(trained_on(t.info.name, t.origins_of(t.train), t.train) for t in tasks)
        plain = evolve(source, task=task.info, adapter={}, adapter_options={})
        artifact = evolve(plain, provenance=Provenance(trained_on=learnt)).with_state(network)
        if source.spec.kind == "module":
            return evolve(artifact, module=network)
        assert artifact.weights is not None
        # it must load again as its model builds it
        load_weights(artifact.network(context.plugins, task=task.info), artifact.weights)
        return artifact

    def _carry(
        self, network: nn.Module, old: TaskInfo, here: Task, labelled: Task, context: Context
    ) -> list[dict[str, Any]]:
        if isinstance(self.method, DirectTransfer):
            with seeded(context.derive("fit")):
                fitted = self.method.fit(network, here, context)
            fitted.requires_grad_(True)
            if fitted is not network:
                raise StageError(
                    f"{type(self.method).__name__}.fit must return the network that it was given"
                )
            return []
        images, _, _ = next(iter(here.train.batches(torch.arange(min(4, len(here.train))), 4)))
        layers = read_layers(network.eval(), Normaliser(here.info, context.device)(images))
        tapped = Tapped(layers, self.method.taps(network))
        criterion = self._criterion(tapped, here, context)
        history: list[dict[str, Any]] = []
        phases = self.method.phases(network, old, here.info)
        try:
            for number, (phase, train) in enumerate(zip(phases, self._lengths(phases), strict=True)):
                part = f"{number + 1} {phase.name}" if len(phases) > 1 else phase.name
                history += self._train_phase(tapped, criterion, phase, train, here, labelled, context, part)
        finally:
            tapped.close()
            network.requires_grad_(True)
        return history

    def _lengths(self, phases: Sequence[Phase]) -> list[Train]:
        """Share out `train.epochs`: phases of their own length first, the rest evenly among the others, the
        first of them longer where it does not divide.
        """
        fixed = sum(phase.epochs or 0 for phase in phases)
        if fixed > self.train.epochs:
            raise StageError(
                f"the method's phases take {fixed} epochs, `train.epochs` allows {self.train.epochs}; raise "
                f"it, or shorten the phases, so that the baseline has the same budget"
            )
        rest = self.train.epochs - fixed
        left = sum(phase.epochs is None for phase in phases)
        lengths = []
        for phase in phases:
            epochs = phase.epochs if phase.epochs is not None else math.ceil(rest / left)
            if phase.epochs is None:
                rest, left = rest - epochs, left - 1
            lengths.append(evolve(self.train, epochs=epochs))
        return lengths

    def _criterion(self, tapped: Tapped, task: Task, context: Context) -> Criterion:
        images, _, _ = next(iter(task.train.batches(torch.arange(min(4, len(task.train))), 4)))
        tapped.network.eval()
        with torch.no_grad(), seeded(context.derive("criterion")):
            criterion: Criterion = self.method.criterion(
                tapped(Normaliser(task.info, context.device)(images)), task.info
            )
        if isinstance(criterion, nn.Module):
            criterion.to(context.device)
        return criterion

    def _train_phase(
        self,
        tapped: Tapped,
        criterion: Criterion,
        phase: Phase,
        train: Train,
        here: Task,
        labelled: Task,
        context: Context,
        part: str,
    ) -> list[dict[str, Any]]:
        network = tapped.network
        groups = freeze(network, phase)

        def loss(batch: Batch, other: Batch | None = None) -> Tensor:
            outputs = tapped(batch.images)
            return criterion(outputs, batch, tapped(other.images) if other else None, other)

        trainee = Trainee(
            network,
            loss,
            groups,
            criterion if isinstance(criterion, nn.Module) else None,
            lambda: set_training(network, phase),
        )
        return fit(
            trainee,
            labelled.train,
            here.info,
            train,
            evolve(context, seed=context.derive("train", part)),
            part,
            lambda: evaluate(network, labelled.validation, here.info).accuracy,
            here.train if self.adapts_domain else None,
        )

    def _train_fresh(
        self, network: nn.Module, labelled: Task, here: Task, context: Context
    ) -> list[dict[str, Any]]:
        return fit(
            Trainee(network, cross_entropy(network, self.train)),
            labelled.train,
            here.info,
            self.train,
            evolve(context, seed=context.derive("train", "from scratch")),
            "from scratch",
            lambda: evaluate(network, labelled.validation, here.info).accuracy,
        )


def freeze(network: nn.Module, phase: Phase) -> list[dict[str, Any]]:
    """Freeze what a phase does not train, and return torch parameter groups for the rest, each parameter in
    one group.

    Raises:
        StageError: The phase trains nothing.
    """
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        rate = _rate(phase, name)
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault(rate, []).append(parameter)
    if not groups:
        names = ", ".join(name for name, _ in network.named_children())
        raise StageError(
            f"the phase {phase.name!r} trains nothing: no parameter starts with {list(phase.rates)}; parts: "
            f"{names}"
        )
    return [{"params": parameters, "scale": rate} for rate, parameters in groups.items()]


def set_training(network: nn.Module, phase: Phase) -> None:
    """Put a network into training mode, except modules that the phase freezes: their statistics stay.

    A module with parameters is frozen if all of its own are; one with buffers alone, such as a normalisation
    without weights, if the phase has no rate for its name.
    """
    network.train()
    for name, module in network.named_modules():
        own = list(module.parameters(recurse=False))
        has_statistics = not own and any(True for _ in module.buffers(recurse=False))
        if (own and not any(p.requires_grad for p in own)) or (has_statistics and not _rate(phase, name)):
            module.training = False  # not eval(), which would reach its children


def _rate(phase: Phase, name: str) -> float:
    """Return the rate of the longest prefix that fits a name; 0 where none does."""
    fitting = [prefix for prefix in phase.rates if _fits(prefix, name)]
    return phase.rates[max(fitting, key=len)] if fitting else 0.0


def _fits(prefix: str, name: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + ".")


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `transfer`."""
    return {"transfer": TransferStage}
