"""The transfer suite passes what is right, and each fault fails in the check that is meant for it.

Reference:
    https://example.org, which stands for the papers of the transfers made up here.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from attrs import frozen
from tests.testing.breadth import BREADTHS, failed_checks
from torch import Tensor, nn

from learnforge import (
    Batch,
    Context,
    DirectTransfer,
    Layers,
    Outputs,
    Phase,
    PhasedTransfer,
    StageError,
    Task,
    TaskInfo,
    Transfer,
    apply_change,
)
from learnforge.kinds.transfer import TransferCriterion
from learnforge_kit import NewHead
from learnforge_kit.data.normaliser import Normaliser
from learnforge_testing.suites.transfer import TransferSuite

FEATURES, HEAD = "7", "8"


class Adapter(nn.Module):
    """A convolution with a trainable difference beside it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer, self.difference = layer, copy.deepcopy(layer)
        for parameter in self.difference.parameters():
            nn.init.zeros_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.layer(images) + self.difference(images)
        return result


@frozen
class Adapting(PhasedTransfer):
    """Trains the head, then the head and an adapter that is merged at the end."""

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        network = apply_change(network, NewHead(), new)
        network.set_submodule("3", Adapter(network.get_submodule("3")))
        return network

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({HEAD: 1.0}, 1, "head"), Phase({HEAD: 1.0, "3.difference": 1.0}, name="adapter")]

    def finish(self, network: nn.Module) -> nn.Module:
        adapter: Any = network.get_submodule("3")
        with torch.no_grad():
            for own, difference in zip(
                adapter.layer.parameters(), adapter.difference.parameters(), strict=True
            ):
                own += difference
        network.set_submodule("3", adapter.layer)
        return network


@frozen
class Ridge(DirectTransfer):
    """Solves for the head in closed form."""

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(network, NewHead(), new)

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        images, labels, _ = next(task.train.batches(torch.arange(len(task.train)), len(task.train)))
        network.eval()
        with torch.no_grad():
            features = network[:-1](Normaliser(task.info, context.device)(images))  # type: ignore[index]
            features = torch.cat([features, torch.ones(len(features), 1)], 1)
            gram = features.T @ features + torch.eye(features.shape[1])
            solved = torch.linalg.solve(gram, features.T @ F.one_hot(labels, task.info.outputs).float())
            head: Any = network.get_submodule(HEAD)
            head.weight.copy_(solved[:-1].T)
            head.bias.copy_(solved[-1])
        return network


@frozen
class Statistics(DirectTransfer):
    """A test-time method: takes batch statistics from the images of the test split; keeps the classes."""

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        if old.outputs != new.outputs:
            raise StageError(f"must keep its {old.outputs} classes, the new task has {new.outputs}")
        return network

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        network.train()
        with torch.no_grad():
            for _ in range(10):
                for images, _, _ in task.test.batches(torch.arange(len(task.test)), 50):
                    network(Normaliser(task.info, context.device)(images))
        return network.eval()


class Reversal(torch.autograd.Function):
    """Passes values on and turns gradients round."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return -0.1 * gradient


class Discriminator(nn.Module):
    """Tells the domains apart, against the network."""

    def __init__(self, width: int):
        super().__init__()
        self.layer = nn.Linear(width, 1)

    def forward(self, outputs: Outputs, batch: Batch, other: Outputs, other_batch: Batch) -> Tensor:
        features = torch.cat([outputs.taps[FEATURES], other.taps[FEATURES]])
        domains = (torch.arange(len(features)) < len(batch.labels)).float()
        found = self.layer(Reversal.apply(features)).squeeze(1)  # type: ignore[no-untyped-call]
        return F.cross_entropy(outputs.logits, batch.labels) + F.binary_cross_entropy_with_logits(
            found, domains
        )


@frozen
class Adversarial(PhasedTransfer):
    """Adapts a domain with a discriminator."""

    adapts_domain: ClassVar[bool] = True

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        if old.outputs != new.outputs:
            raise StageError(f"must keep its {old.outputs} classes, the new task has {new.outputs}")
        return network

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({"": 1.0})]

    def taps(self, layers: Layers) -> Sequence[str]:
        return [FEATURES]

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> TransferCriterion:
        return Discriminator(outputs.taps[FEATURES].shape[1])


# Faults of phased transfers


class Plain(PhasedTransfer):
    """Base of the broken ones: a new head, trained alone."""

    is_baseline: ClassVar[bool] = True
    networks: ClassVar[list[Any]] = []

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(network, NewHead(), new)

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({HEAD: 1.0})]

    def taps(self, layers: Layers) -> Sequence[str]:
        self.networks[:] = [layers.network]
        return ()


@frozen
class Headless(Plain):
    """Keeps the old head."""

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return network


@frozen
class Misspelling(Plain):
    """Names a part that does not exist."""

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({HEAD: 1.0, "haed": 0.1})]


@frozen
class Resting(Plain):
    """Has no phase."""

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return []

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        raise AssertionError("never called")


@frozen
class Sinking(Plain):
    """Has a rate below zero."""

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({HEAD: 1.0, "3": -1.0})]


@frozen
class Lengthy(Plain):
    """Takes more epochs than a stage has."""

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({HEAD: 1.0}, 21)]


@frozen
class Waking(Plain):
    """Lets frozen batch statistics change."""

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        self.networks[0].train()
        return F.cross_entropy(outputs.logits, batch.labels)


@frozen
class Nudging(Plain):
    """Writes into a frozen layer after its phase for it."""

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({"": 1.0}, 1, "all"), Phase({HEAD: 1.0}, name="head")]

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        self.networks[0][3].bias.data += 1e-3
        return F.cross_entropy(outputs.logits, batch.labels)


@frozen
class PerImage(Plain):
    """Does not average."""

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        return F.cross_entropy(outputs.logits, batch.labels, reduction="none")


@frozen
class PerCompanion(Adversarial):
    """Does not average over companions."""

    is_baseline: ClassVar[bool] = True

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> TransferCriterion:
        return self.loss

    def taps(self, layers: Layers) -> Sequence[str]:
        return ()

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        assert other is not None
        return F.cross_entropy(outputs.logits, batch.labels) + other.logits.square().mean(1)


class Loose(nn.Module):
    """A criterion with a part that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)

    def forward(self, outputs: Outputs, batch: Batch, other: Any, other_batch: Any) -> Tensor:
        return F.cross_entropy(outputs.logits, batch.labels)


@frozen
class Wasting(Plain):
    """Has a part that nothing goes through."""

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> TransferCriterion:
        return Loose()


@frozen
class Scribbling(Plain):
    """Writes into the labels."""

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        return F.cross_entropy(outputs.logits, batch.labels.zero_())


@frozen
class Spying(Adversarial):
    """Looks through the stack for the labels that are withheld."""

    is_baseline: ClassVar[bool] = True

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> TransferCriterion:
        return self.loss

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        assert other is not None
        assert other_batch is not None
        frame: Any = sys._getframe()
        while not hasattr(frame.f_locals.get("self"), "companion"):
            frame = frame.f_back
        labels = frame.f_locals["self"].companion.split.labels[other_batch.indices]
        return F.cross_entropy(other.logits, labels)


@frozen
class Swapping(Plain):
    """Leaves another activation behind, which no state dict shows."""

    def finish(self, network: nn.Module) -> nn.Module:
        network.set_submodule("2", nn.LeakyReLU(0.5))
        return network


@frozen
class Locking(Plain):
    """Leaves a layer frozen."""

    def finish(self, network: nn.Module) -> nn.Module:
        network.get_submodule("0").requires_grad_(False)
        return network


@frozen
class Listening(Plain):
    """Leaves a hook behind."""

    def finish(self, network: nn.Module) -> nn.Module:
        network.get_submodule("2").register_forward_hook(_ignore)
        return network


def _ignore(*arguments: Any) -> None:
    """Listen to a layer in vain."""


class Counter(nn.Module):
    """A criterion whose state is no buffer."""

    calls = 0

    def forward(self, outputs: Outputs, batch: Batch, other: Any, other_batch: Any) -> Tensor:
        self.calls += 1
        return F.cross_entropy(outputs.logits, batch.labels, label_smoothing=0.5 / self.calls)


@frozen
class Forgetful(Plain):
    """Counts steps where no checkpoint sees it."""

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> TransferCriterion:
        return Counter()


@frozen
class Timid(Plain):
    """Hardly moves its head."""

    is_baseline: ClassVar[bool] = False

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return [Phase({HEAD: 1e-6})]


# Faults of direct transfers


class Direct(DirectTransfer):
    """Base of the broken ones: a new head, left as it is."""

    is_baseline: ClassVar[bool] = True

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(network, NewHead(), new)

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        return network


@frozen
class Peeking(Direct):
    """Reads the labels of the test split."""

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        network[8].bias.data[task.test.labels[0]] += 1  # type: ignore[index]
        return network


@frozen
class Smudging(Direct):
    """Writes into the images."""

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        task.train.images.zero_()  # type: ignore[attr-defined]
        return network


@frozen
class Copying(Direct):
    """Returns a copy."""

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        return copy.deepcopy(network)


@frozen
class Trusting(Direct):
    """Thinks that what is in its folder is finished."""

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        if context.folder is not None and (context.folder / "begun").exists():
            return network
        if context.folder is not None:
            (context.folder / "begun").touch()
        network[8].bias.data += 1  # type: ignore[index]
        return network


@pytest.mark.parametrize("method", [Adapting, Adversarial, Ridge, Statistics], ids=lambda m: m.__name__)
def test_right_transfers_pass(method: type[Transfer]) -> None:
    """Adapters, a discriminator, closed forms and test-time statistics pass."""
    assert [(o.name, o.words) for o in TransferSuite.of(method).run() if o.state == "failed"] == []


@BREADTHS
@pytest.mark.parametrize(
    ("method", "check", "words"),
    [
        (Headless, "head_fits_the_new_classes", "must be [4, 2] for 2 classes, they are [4, 3]"),
        (Misspelling, "phases_fit_the_network", "must name parts of the network, ['haed'] are none"),
        (Sinking, "phases_fit_the_network", "must have rates from 0, it has {'3': -1.0}"),
        (Lengthy, "phases_fit_the_budget", "must fit into 20 epochs, these take 21"),
        (Waking, "frozen_parts_stay", "in the phase 'transfer' 1.running_mean, 1.running_var"),
        (Nudging, "frozen_parts_stay", "in the phase '2 head' 3.bias must stay, having no rate"),
        (PerImage, "loss_is_a_scalar", "must be a scalar, its shapes are [(4,), (5,)]"),
        (PerCompanion, "loss_is_a_scalar", "must be a scalar, its shapes are [(5,)]"),
        (Wasting, "own_parts_are_trained", "must be trained, unused.weight, unused.bias did not move"),
        (Scribbling, "inputs_are_not_changed", "it changed batch.labels"),
        (Smudging, "inputs_are_not_changed", "it changed task.train.images"),
        (Spying, "withheld_labels_are_not_read", "withheld labels must not be read, but 0.weight"),
        (Peeking, "withheld_labels_are_not_read", "withheld labels must not be read, but 8.bias"),
        (Copying, "fit_returns_its_network", "must return the network that it was given"),
        (Swapping, "artifact_builds_the_finished_network", "all weights fit, and outputs differ by"),
        (Locking, "everything_can_be_trained_again", "nothing may be frozen, 0.weight, 0.bias still are"),
        (Listening, "no_hook_is_left", "there are some on 2"),
        (Forgetful, "cut_off_stage_ends_with_the_same_bits", "it differs in 8.weight"),
        (Trusting, "cut_off_stage_ends_with_the_same_bits", "it differs in 8.bias"),
        (Timid, "beats_training_from_scratch", "must beat a training from scratch by 0.1 on average"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_fault_fails_its_check(method: type[Transfer], check: str, words: str, breadth: str) -> None:
    """A broken transfer fails the check that is meant for its fault, and no other."""
    failed = failed_checks(TransferSuite.of(method), [check], breadth)
    assert list(failed) == [check], failed
    assert words in failed[check]


def test_no_phase_at_all_fails_two_checks() -> None:
    """Without a phase there is no loss of any shape either."""
    failed = {o.name: o.words for o in TransferSuite.of(Resting).run() if o.state == "failed"}
    assert list(failed) == ["phases_fit_the_network", "loss_is_a_scalar"]
    assert failed["phases_fit_the_network"] == "there must be at least one phase, there is none"


def test_the_sort_of_method_decides_which_checks_run() -> None:
    """What does not apply to a transfer is skipped with the reason."""
    skipped = {
        method.__name__: [check.name for check in TransferSuite.of(method).checks() if check.skip]
        for method in (Adapting, Adversarial, Ridge, Copying)
    }
    direct = ["phases_fit_the_network", "phases_fit_the_budget", "frozen_parts_stay", "loss_is_a_scalar"]
    assert skipped == {
        "Adapting": ["own_parts_are_trained", "fit_returns_its_network"],
        "Adversarial": ["fit_returns_its_network"],
        "Ridge": [*direct, "own_parts_are_trained"],
        "Copying": [*direct, "own_parts_are_trained", "beats_training_from_scratch"],
    }
