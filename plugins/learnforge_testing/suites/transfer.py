"""What every transfer must keep to: frozen parts stay, layers stay the model's, a fresh start is beaten."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge.artifact import Artifact, from_module
from learnforge.context import Context, Emit
from learnforge.errors import LearnforgeError, StageError
from learnforge.kinds.seen.network import Layers, Outputs
from learnforge.kinds.task import Batch, GivenTask, Split, Task
from learnforge.kinds.transfer import DirectTransfer, Phase, PhasedTransfer, Transfer, TransferCriterion
from learnforge.plugins.registry import Plugins
from learnforge.randomness import seeded
from learnforge.rebuilding import require_rebuilt
from learnforge.spec import TaskInfo, copy_weights
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.data.splits import MemorySplit
from learnforge_kit.training.evaluation import evaluate
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.transfer.freezing import freeze, set_training
from learnforge_plugins.stages.transfer.stage import TransferStage
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import needs, require
from learnforge_testing.toys import make_network
from learnforge_testing.watch import (
    WatchedParts,
    differing,
    handed,
    hashes,
    hooked,
    make_context,
    mend,
    require_trained,
    run_in_two,
    train_alone,
)

QUICK = Train(epochs=2, batch_size=5)


THOROUGH = Train(epochs=20, batch_size=20)


GAIN = 0.1
"""What a transfer must win over a training from scratch: accuracy; a plain fine-tuning wins about 0.4."""


class TransferSuite(MethodSuite):
    """Checks of a transfer inside its stage, with images of gratings.

    The old task is learnt well; in the new one gratings are fainter and brighter, and only nine have
    labels. A method whose options name layers is given options that fit the network, or another network:
    override `network`.
    """

    kind = "transfer"
    base: ClassVar[type] = Transfer

    def network(self, task: TaskInfo, seed: int = 0) -> nn.Module:
        """Make the network, its weights from the seed."""
        return make_network(task, seed=seed)

    def result(self) -> Any:
        return copy_weights(self._carry().finished)

    def test_head_fits_the_new_classes(self) -> None:
        """After `prepare` there is a score for each new class: as many as before, fewer and more.

        A method may refuse another number of classes with an error of learnforge's own.
        """
        images = _show(_draw(4, (60, 128, 40), 0).images)
        for outputs in (3, 2, 5):
            try:
                network = self._prepare(_info(outputs))
            except LearnforgeError:
                require(outputs != 3, "`prepare` must take a task with as many classes as the old one")
                continue
            shape = tuple(network.eval()(images).shape)
            require(
                shape == (4, outputs),
                f"scores of 4 images must be [4, {outputs}] for {outputs} classes, they are {list(shape)}",
            )

    @needs(lambda suite: _is_phased(suite.method), "the method has no phases")
    def test_phases_fit_the_network(self) -> None:
        """There are phases, which name parts that exist and train each parameter at one rate."""
        network, phases = self._plan()
        require(phases, "there must be at least one phase, there is none")
        require(
            any(phase.epochs != 0 for phase in phases), "at least one phase must last longer than 0 epochs"
        )
        parts = {name for name, _ in [*network.named_modules(), *network.named_parameters()]}
        for phase in phases:
            words = f"the phase {phase.name!r} must"
            unknown = [prefix for prefix in phase.rates if prefix not in parts]
            require(not unknown, f"{words} name parts of the network, {unknown} are none")
            wrong = {n: rate for n, rate in phase.rates.items() if not (math.isfinite(rate) and rate >= 0)}
            require(not wrong, f"{words} have rates from 0, it has {wrong}")
            once = [id(p) for group in freeze(network, phase) for p in group["params"]]
            trained = {id(p) for p in network.parameters() if p.requires_grad}
            is_partition = len(once) == len(set(once)) and set(once) == trained
            require(is_partition, f"{words} train each parameter in one group")

    @needs(lambda suite: _is_phased(suite.method), "the method has no phases")
    def test_phases_fit_the_budget(self) -> None:
        """With default options the phases take no more epochs than a stage has by default."""
        _, phases = self._plan()
        fixed, budget = sum(phase.epochs or 0 for phase in phases), Train().epochs
        require(fixed <= budget, f"phases must fit into {budget} epochs, these take {fixed}")

    @needs(lambda suite: _is_phased(suite.method), "the method has no phases")
    def test_frozen_parts_stay(self) -> None:
        """What a phase gives no rate keeps its weights and batch statistics bit for bit."""
        seen = self._carried()
        before = seen.start
        for part, names in zip(seen.parts, seen.frozen, strict=True):
            after = seen.states.get(part, before)
            changed = [name for name in names if before[name] != after[name]]
            require(not changed, f"in the phase {part!r} {', '.join(changed)} must stay, having no rate")
            before = after

    @needs(lambda suite: _is_phased(suite.method), "the method has no loss")
    def test_loss_is_a_scalar(self) -> None:
        """The loss of every batch is one number, with companions where the method adapts a domain."""
        shapes = {tuple(loss.shape) for loss in self._carried().losses}
        require(shapes == {()}, f"the loss must be a scalar, its shapes are {sorted(shapes)}")

    @needs(lambda suite: _has_parts(suite.method), "the method has no criterion of its own")
    def test_own_parts_are_trained(self) -> None:
        """Every weight of the criterion that asks for a gradient moves in a short training."""
        seen = self._carried()
        require_trained(seen.own_start, seen.own_parameters())

    def test_inputs_are_not_changed(self) -> None:
        """Images, labels and outputs are only read: others use the same tensors."""
        task = self._target()
        before = hashes(_tensors_of(task))
        seen = self._carry(task=task)
        changed = sorted(seen.changed) + differing(before, hashes(_tensors_of(task)))
        require(not changed, f"the method must not write into its inputs, it changed {', '.join(changed)}")

    def test_withheld_labels_are_not_read(self) -> None:
        """Labels of the test split, and of the whole new task in domain adaptation, change nothing."""
        task = self._target()
        poisoned = evolve(task, test=_poison(task.test))
        if _adapts_domain(self.method):
            train, validation = _poison(task.train), _poison(task.validation)
            poisoned = evolve(poisoned, train=train, validation=validation)
        results = [hashes(self._carry(task=t).finished.state_dict()) for t in (task, poisoned)]
        changed = differing(*results)
        require(not changed, f"withheld labels must not be read, but {', '.join(changed)} depend on them")

    @needs(lambda suite: issubclass(suite.method, DirectTransfer), "the core trains the network")
    def test_fit_returns_its_network(self) -> None:
        """`fit` returns the very network that it was given."""
        require(
            self._carried().is_same, "`fit` must return the network that it was given, it returned another"
        )

    def test_artifact_builds_the_finished_network(self) -> None:
        """What is handed on is built again from its model and the changes that are written down: the same
        layers, the same scores.
        """
        try:
            require_rebuilt(self._carried().artifact, Plugins())
        except StageError as error:
            raise AssertionError(str(error)) from error

    def test_everything_can_be_trained_again(self) -> None:
        """Every parameter that is handed on asks for a gradient, for the next stage."""
        still = [name for name, p in self._carried().finished.named_parameters() if not p.requires_grad]
        require(not still, f"after the stage nothing may be frozen, {', '.join(still)} still are")

    def test_no_hook_is_left(self) -> None:
        """After the stage nobody listens to the network."""
        left = hooked(self._carried().finished)
        require(not left, f"after the stage no hook may be left, there are some on {', '.join(left)}")

    def test_cut_off_stage_ends_with_the_same_bits(self) -> None:
        """Killed and continued in the same folder, a stage ends with the same network."""
        train = evolve(QUICK, epochs=3)
        whole = hashes(self._carry(train=train).finished.state_dict())
        halves = run_in_two(lambda context: self._carry(train=train, context=context), 2)
        changed = differing(whole, hashes(halves.finished.state_dict()))
        require(
            not changed, f"a continued stage must end with the same bits, it differs in {', '.join(changed)}"
        )

    @needs(lambda suite: not suite.method.is_baseline, "the method is a baseline")
    def test_beats_training_from_scratch(self) -> None:
        """On a shifted task with few labels or none its mean gain over fresh weights is clear."""
        gains = [self._gain(seed) for seed in range(3)]
        mean = sum(gains) / len(gains)
        words = ", ".join(f"{gain:+.2f}" for gain in gains)
        require(mean >= GAIN, f"it must beat a training from scratch by {GAIN} on average, it gains {words}")

    def _gain(self, seed: int) -> float:
        """Return by how much accuracy on the test split is above that of fresh weights."""
        task, train = self._target(seed), self._lengthen(THOROUGH)
        own = self._carry(task=task, train=train, context=make_context(seed=seed)).finished
        labelled = _source() if _adapts_domain(self.method) else task
        fresh = train_alone(self.network(task.info, seed + 1), evolve(labelled, info=task.info), train, seed)
        return evaluate(own, task.test, task.info).accuracy - evaluate(fresh, task.test, task.info).accuracy

    def _target(self, seed: int = 0) -> Task:
        """Make the new task: nine labelled images, or sixty where labels are withheld."""
        return _gratings(60 if _adapts_domain(self.method) else 9, 150, (30, 170, 24), seed + 1)

    def _prepare(self, new: TaskInfo) -> nn.Module:
        """Return the trained source network, prepared for a task."""
        network = self._source().network()
        with seeded(0):
            prepared: nn.Module = self.make().prepare(network, _info(3), new)
        return prepared

    def _plan(self) -> tuple[nn.Module, Sequence[Phase]]:
        """Return the prepared network and the phases for it."""
        network = self._prepare(_info(3))
        return network, list(self.make().phases(network, _info(3), _info(3)))

    def _lengthen(self, train: Train) -> Train:
        """Give a training as many epochs as the phases take at least."""
        phases = self._plan()[1] if _is_phased(self.method) else []
        least = sum(1 if phase.epochs is None else phase.epochs for phase in phases)
        return evolve(train, epochs=max(train.epochs, least))

    def _source(self) -> Artifact:
        suite: Any = type(self)  # mypy takes no class for hashable
        return _trained_source(suite)

    def _carried(self) -> Seen:
        """Return what was seen of the method in one stage, which several checks look at and none changes."""
        suite: Any = type(self)  # mypy takes no class for hashable
        return _carried_once(suite)

    def _carry(self, task: Task | None = None, context: Context | None = None, train: Train = QUICK) -> Seen:
        """Run a stage and return what was seen of the method in it."""
        seen, context = Seen(self.make()), context or make_context()
        method = WatchedFit(seen) if isinstance(seen.method, DirectTransfer) else WatchedPhases(seen)
        stage = TransferStage(
            name="stage",
            method=method,
            train=self._lengthen(train),
            baseline=False,
            source_task=GivenTask(_source()) if _adapts_domain(self.method) else None,
        )
        heard = evolve(context, emit=seen.listen(context.emit))
        artifact = stage.run(task or self._target(), {"source": self._source()}, heard)
        assert artifact.made is not None
        seen.artifact, seen.finished = artifact, artifact.made
        return seen


class Seen:
    """What was seen of a transfer in its stage.

    Args:
        method: The transfer under test.
    """

    network: nn.Module
    artifact: Artifact
    finished: nn.Module
    inner: TransferCriterion
    is_same = False

    def __init__(self, method: Any):
        self.method = method
        self.parts: list[str] = []
        self.frozen: list[list[str]] = []
        self.start: dict[str, str] = {}
        self.states: dict[str, dict[str, str]] = {}
        self.losses: list[Tensor] = []
        self.changed: set[str] = set()
        self.own_start: dict[str, str] = {}

    def listen(self, emit: Emit) -> Emit:
        """Return what notes the network's state at the end of each epoch and passes every event on."""

        def note(event: str, **data: Any) -> None:
            if event == "epoch_finished":
                self.states[data["metrics"]["part"]] = hashes(_tensors_in(self.network))
            emit(event, **data)

        return note

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        """Let the method prepare its network, and keep it."""
        self.network = self.method.prepare(network, old, new)
        return self.network

    def plan(self, phases: Sequence[Phase]) -> Sequence[Phase]:
        """Note what must stay in each phase."""
        self.parts = [f"{i + 1} {p.name}" if len(phases) > 1 else p.name for i, p in enumerate(phases)]
        self.frozen = [_frozen(self.network, phase) for phase in phases]
        self.start = hashes(_tensors_in(self.network))
        return phases

    def own_parameters(self) -> dict[str, Tensor]:
        """Return the weights of the criterion that ask for a gradient."""
        named = self.inner.named_parameters() if isinstance(self.inner, nn.Module) else ()
        return {name: p for name, p in named if p.requires_grad}


class WatchedPhases(PhasedTransfer):
    """A phased transfer that hands everything on to another.

    Args:
        seen: Keeps what is seen; holds the other.
    """

    def __init__(self, seen: Seen):
        self.seen, self.method = seen, seen.method
        # one class watches all sorts
        self.adapts_domain = seen.method.adapts_domain  # type: ignore[misc]
        self.uses_unlabelled = seen.method.uses_unlabelled  # type: ignore[misc]

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return self.seen.prepare(network, old, new)

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return self.seen.plan(list(self.method.phases(network, old, new)))

    def taps(self, layers: Layers) -> Sequence[str]:
        names: Sequence[str] = self.method.taps(layers)
        return names

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> TransferCriterion:
        self.seen.inner = self.method.criterion(network, outputs, task)
        self.seen.own_start = hashes(self.seen.own_parameters())
        inner = self.seen.inner
        return WatchedParts(inner, self.loss) if isinstance(inner, nn.Module) else self.loss

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        tensors = handed(outputs=outputs, batch=batch, other=other, other_batch=other_batch)
        before = hashes(tensors)
        loss = self.seen.inner(outputs, batch, other, other_batch)
        self.seen.changed |= set(differing(before, hashes(tensors)))
        self.seen.losses.append(loss.detach())
        return mend(loss, outputs.logits)

    def finish(self, network: nn.Module) -> nn.Module:
        finished: nn.Module = self.method.finish(network)
        return finished


class WatchedFit(DirectTransfer):
    """A direct transfer that hands everything on to another.

    Args:
        seen: Keeps what is seen; holds the other.
    """

    def __init__(self, seen: Seen):
        self.seen, self.method = seen, seen.method

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return self.seen.prepare(network, old, new)

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        self.seen.is_same = self.method.fit(network, task, context) is network
        return network

    def finish(self, network: nn.Module) -> nn.Module:
        finished: nn.Module = self.method.finish(network)
        return finished


def _is_phased(method: type[Any]) -> bool:
    return issubclass(method, PhasedTransfer)


def _adapts_domain(method: type[Any]) -> bool:
    return _is_phased(method) and method.adapts_domain


def _has_parts(method: type[Any]) -> bool:
    return _is_phased(method) and method.criterion is not PhasedTransfer.criterion


@functools.lru_cache(maxsize=1)
def _carried_once(suite: type[TransferSuite]) -> Seen:
    return suite()._carry()


@functools.lru_cache(maxsize=1)
def _trained_source(suite: type[TransferSuite]) -> Artifact:
    """Train a suite's network on the old task once for all of its checks; a stage works on a copy."""
    task = _source()
    return from_module(train_alone(suite().network(task.info), task, THOROUGH), task.info)


def _source() -> Task:
    return _gratings(180, 60, (60, 128, 40), 0)


def _gratings(train: int, others: int, look: tuple[int, int, int], seed: int) -> Task:
    """Make a task whose class is the direction of a grating, wherever it begins.

    Args:
        train: Images to learn from.
        others: Images in each of the other splits.
        look: Contrast, brightness and deviation of the noise, in grey levels.
        seed: Which images.
    """
    splits = [_draw(count, look, 3 * seed + part) for part, count in enumerate((train, others, others))]
    more = _draw(60, look, 3 * seed + 1000).images
    unlabelled = MemorySplit(more, torch.full((len(more),), -1))
    info = evolve(_info(3), name="gratings")
    return Task(info, splits[0], splits[1], splits[2], unlabelled=unlabelled)


def _draw(count: int, look: tuple[int, int, int], seed: int) -> MemorySplit:
    generator = torch.Generator().manual_seed(seed)
    contrast, brightness, noise = look
    labels = torch.arange(count) % 3
    angles = (labels * math.pi / 3).view(-1, 1, 1)
    rows, columns = torch.arange(8.0).view(-1, 1), torch.arange(8.0)
    phases = 2 * math.pi * torch.rand(count, 1, 1, generator=generator)
    waves = torch.sin(1.6 * (angles.cos() * columns + angles.sin() * rows) + phases)
    images = brightness + contrast * waves + noise * torch.randn(count, 8, 8, generator=generator)
    return MemorySplit(images.clamp(0, 255).to(torch.uint8).unsqueeze(1), labels)


def _info(classes: int) -> TaskInfo:
    """Describe gratings; both tasks have one mean and deviation, or normalising would undo the shift."""
    names = tuple(f"direction {i}" for i in range(classes))
    return TaskInfo("gratings", names, names, (1, 8, 8), (0.5,), (0.25,))


def _show(images: Tensor) -> Tensor:
    return Normaliser(_info(3), torch.device("cpu"))(images)


def _poison(split: Split) -> Split:
    assert isinstance(split, MemorySplit)
    return evolve(split, labels=(split.labels + 1) % 3)


def _tensors_of(task: Task) -> dict[str, Tensor]:
    splits: Mapping[str, Any] = {"train": task.train, "validation": task.validation, "test": task.test}
    return {
        f"task.{n}.{field}": getattr(s, field) for n, s in splits.items() for field in ("images", "labels")
    }


def _tensors_in(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _frozen(network: nn.Module, phase: Phase) -> list[str]:
    """List the tensors that must stay in a phase: parameters without a rate, statistics of frozen modules."""
    network = copy.deepcopy(network)
    freeze(network, phase)
    set_training(network, phase)
    still = [(name, m) for name, m in network.named_modules() if not m.training]
    statistics = [f"{n}.{b}".lstrip(".") for n, m in still for b, _ in m.named_buffers(recurse=False)]
    return [name for name, p in network.named_parameters() if not p.requires_grad] + statistics
