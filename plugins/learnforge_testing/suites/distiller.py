"""What every distiller must keep to: it teaches the student, and the student alone."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from learnforge.artifact import Artifact, from_module
from learnforge.context import Context
from learnforge.errors import DivergedError, LearnforgeError, StageError
from learnforge.kinds.distiller import Criterion, Distiller
from learnforge.kinds.seen.network import Layers, Outputs
from learnforge.kinds.seen.turns import Turn
from learnforge.kinds.task import Batch, Task
from learnforge.plugins.registry import Plugins
from learnforge.randomness import seeded
from learnforge.rebuilding import require_rebuilt
from learnforge.spec import TaskInfo, copy_weights
from learnforge_kit.networks.layers import read_layers
from learnforge_kit.networks.taps import Tapped
from learnforge_kit.training.evaluation import predict, score
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.distill.stage import DistillStage
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import needs, require
from learnforge_testing.toys import make_network, make_task
from learnforge_testing.watch import (
    StoppedError,
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

QUICK = Train(epochs=2, batch_size=20)


THOROUGH = Train(epochs=12, batch_size=20, learning_rate=1e-2)


_CLOSE = 1e-5
"""What counts as zero in single precision."""


class DistillerSuite(MethodSuite):
    """Checks of a distiller inside its stage, with small convolutional networks and striped images.

    A method whose options name layers is given options that fit these networks, or other networks: override
    `student` and `teacher`.
    """

    kind = "distiller"
    base: ClassVar[type] = Distiller

    def student(self, task: TaskInfo) -> nn.Module:
        """Make the student, always with the same weights."""
        return make_network(task, width=6, seed=1)

    def teacher(self, task: TaskInfo) -> nn.Module:
        """Make the teacher, always with the same weights; it is trained before it teaches."""
        return make_network(task, width=12, seed=0)

    def result(self) -> Any:
        seen = self._distilled()
        gradients = {name: p.grad for name, p in seen.student.named_parameters()}
        return {"losses": seen.losses, "gradients": gradients, "weights": copy_weights(seen.student)}

    def test_loss_is_a_scalar(self) -> None:
        """The loss of every batch is one number, not one per image."""
        shapes = {tuple(loss.shape) for loss in self._distilled().losses}
        require(shapes == {()}, f"the loss must be a scalar, its shapes are {sorted(shapes)}")

    def test_gradients_reach_student_and_own_parts(self) -> None:
        """Every weight that the student's scores depend on gets a finite gradient, none of the teacher's
        gets one.
        """
        seen = self._distil()
        reached = {name: p.grad for name, p in seen.student.named_parameters()}
        # what `finish` puts into the place of the student's own layers is trained as the method's parts
        kept = [name for name in _influential(seen.finished) if name in reached]
        lost = [name for name in kept if not _is_alive(reached[name])]
        require(not lost, f"the loss must give the student's {', '.join(lost)} a gradient, it gives none")
        everything = reached | {f"own {name}": p.grad for name, p in seen.own_parameters().items()}
        wild = _wild(everything)
        require(not wild, f"gradients must be finite, not so {', '.join(wild)}")
        taught = [name for name, p in seen.teacher.named_parameters() if p.grad is not None]
        require(
            not taught or self.method.trains_teacher,
            f"the teacher must get no gradient, its {', '.join(taught)} got one; a method that trains it "
            "says `trains_teacher = True`",
        )

    @needs(lambda suite: suite.method.trains_teacher, "the teacher stays as it is")
    def test_teacher_learns(self) -> None:
        """Every weight that the teacher's scores depend on moves in a short training."""
        seen = self._distilled()
        moved = set(seen.changes_of_teacher())
        still = [name for name in _influential(seen.teacher) if name not in moved]
        require(not still, f"a teacher that learns must change, its {', '.join(still)} did not")

    @needs(lambda suite: not suite.method.trains_teacher, "the method trains its teacher")
    def test_teacher_stays_as_it_is(self) -> None:
        """The teacher's weights and batch statistics stay bit for bit, and it stays in eval mode."""
        seen = self._distil()
        changed = seen.changes_of_teacher()
        require(not changed, f"the teacher must not change, its {', '.join(changed)} did")
        require(
            not seen.is_teacher_training, "the teacher must stay in eval mode, it was put into training mode"
        )

    @needs(lambda suite: suite.method.zero_at_teacher is not None, "the method does not claim it")
    def test_zero_at_teacher(self) -> None:
        """Under the options in `zero_at_teacher`, loss and gradient are zero where the student puts out what
        the teacher does, and the loss is above zero elsewhere.
        """
        claim = dict(self.method.zero_at_teacher)
        seen = self._distil(self.make(**claim), epochs=0, student=self.inputs["teacher"])
        own, known = (seen.outputs(seen.teacher, layers) for layers in seen.layers)
        batch = _batch(self.task)
        same = seen.evaluate(batch, own, known)
        require(
            abs(same.value) <= _CLOSE, f"with {claim} the loss at the teacher must be 0, it is {same.value}"
        )
        largest = max(float(gradient.abs().max()) for gradient in same.gradients)
        require(
            largest <= _CLOSE, f"with {claim} the gradient at the teacher must be 0, it is up to {largest}"
        )
        other = seen.evaluate(batch, _select(own, torch.arange(12).roll(1)), known)
        require(
            other.value > _CLOSE, f"with {claim} the loss off the teacher must be > 0, it is {other.value}"
        )

    def test_extreme_scores_stay_finite(self) -> None:
        """Scores of ±10,000, all equal, or one far above the rest, give finite loss and gradients."""
        seen, batch = self._distil(epochs=0), _batch(self.task)
        student = seen.outputs(seen.student, seen.layers[0])
        teacher = seen.outputs(seen.teacher, seen.layers[1])
        for name, (own, known) in _extremes(student.logits.shape).items():
            found = seen.evaluate(batch, evolve(student, logits=own), evolve(teacher, logits=known))
            require(
                found.is_finite, f"with {name} loss and gradients must be finite; the loss is {found.value}"
            )

    def test_bfloat16_is_close(self) -> None:
        """In bfloat16 the loss is that of single precision but for rounding, and gradients are finite."""
        exact, rounded = self._distil(), self._distil(precision="bf16")
        _require_close(rounded.losses[0], exact.losses[0], "under autocast to bfloat16")
        wild = _wild({name: p.grad for name, p in rounded.student.named_parameters()})
        require(not wild, f"under autocast to bfloat16 gradients must be finite, not so {', '.join(wild)}")
        if isinstance(exact.inner, nn.Module):
            return  # its own weights are in single precision: only autocast brings the two together
        batch = _batch(self.task)
        both = [exact.outputs(network, layers) for network, layers in exact.listened]
        known = exact.evaluate(batch, *both)
        found = exact.evaluate(batch, *map(_cast, both))
        _require_close(torch.tensor(found.value), torch.tensor(known.value), "with outputs in bfloat16")
        require(found.is_finite, "with outputs in bfloat16 gradients must be finite")

    @needs(lambda suite: _has_parts(suite.method), "the method has no criterion of its own")
    def test_own_parts_are_trained(self) -> None:
        """Every weight of the criterion that asks for a gradient moves in a short training."""
        seen = self._distilled()
        require_trained(seen.own_start, seen.own_parameters())

    def test_student_keeps_its_layers(self) -> None:
        """What is handed on has the student's own tensors, and nothing of the method's."""
        seen = self._distilled()
        want = {name: tuple(t.shape) for name, t in self.student(self.task.info).state_dict().items()}
        got = {name: tuple(t.shape) for name, t in seen.student.state_dict().items()}
        wrong = [name for name in {**want, **got} if want.get(name) != got.get(name)]
        require(not wrong, f"the student must keep its own layers, these differ: {', '.join(wrong)}")

    def test_no_hook_is_left(self) -> None:
        """After a stage, and after one that an error ends, nobody listens to student or teacher."""
        for name, stop_at in (("the stage", None), ("an error", 2)):
            seen = self._distil(stop_at=stop_at)
            left = {"student": hooked(seen.student), "teacher": hooked(seen.teacher)}
            words = "; ".join(f"{role}: {', '.join(layers)}" for role, layers in left.items() if layers)
            require(not words, f"after {name} no hook may be left, there are some on {words}")

    def test_inputs_are_not_changed(self) -> None:
        """Outputs and batches are only read: others use the same tensors."""
        changed = sorted(self._distilled().changed)
        require(not changed, f"the loss must not write into its inputs, it changed {', '.join(changed)}")

    def test_small_batches_work(self) -> None:
        """Batches of two images and of one give a finite loss, or an error of learnforge's own."""
        for count, look in ((2, self._train_on_last_batch), (1, self._evaluate_single_image)):
            try:
                is_finite = look()
            except DivergedError:
                is_finite = False
            except LearnforgeError:
                continue
            require(is_finite, f"a batch of {count} must give a finite loss and finite gradients")

    @needs(lambda suite: not _has_parts(suite.method), "a criterion of its own may remember batches")
    def test_order_of_a_batch_does_not_matter(self) -> None:
        """A batch in another order, its labels with it, has the same loss."""
        seen, batch = self._distil(epochs=0), _batch(self.task)
        both = [seen.outputs(network, layers) for network, layers in seen.listened]
        order = torch.randperm(12, generator=torch.Generator().manual_seed(4))
        mixed = [_select(outputs, order) for outputs in both]
        first = seen.evaluate(batch, *both).value
        second = seen.evaluate(_select_batch(batch, order), *mixed).value
        require(
            abs(first - second) <= 1e-4 * max(1.0, abs(first)),
            f"a batch in another order must have the same loss {first}, it has {second}",
        )

    def test_student_learns(self) -> None:
        """A short training makes the student agree with its teacher on most test images."""
        seen = self._distil(epochs=THOROUGH.epochs, learning_rate=THOROUGH.learning_rate)
        networks = seen.finished, seen.teacher
        scores, known = (predict(network, self.task.test, self.task.info) for network in networks)
        agreement = score(scores, known.argmax(1), self.task.info).accuracy
        require(
            agreement >= 0.6,
            f"the student must agree with its teacher on 60 % of images, it does on {agreement:.0%}",
        )

    @needs(lambda suite: suite.method.finish is not Distiller.finish, "the method hands on what it trains")
    def test_artifact_builds_the_student(self) -> None:
        """What is handed on is built again from its model and the changes that are written down: the same
        layers, the same scores.
        """
        artifact = self._distilled().artifact
        if artifact is None:  # the stage was refused since the teacher changed, for which there is a check
            return
        try:
            require_rebuilt(artifact, Plugins())
        except StageError as error:
            raise AssertionError(str(error)) from error

    def test_cut_off_training_ends_with_the_same_bits(self) -> None:
        """Killed and continued, a stage ends with the same student: what the method keeps is in buffers."""
        whole = hashes(self._distil(epochs=3).student.state_dict())
        halves = run_in_two(lambda context: self._distil(epochs=3, context=context), 2)
        changed = differing(whole, hashes(halves.student.state_dict()))
        require(
            not changed, f"a continued stage must end with the same bits, it differs in {', '.join(changed)}"
        )

    @property
    def task(self) -> Task:
        """The task that is learnt."""
        return make_task()

    @property
    def inputs(self) -> dict[str, Artifact]:
        """Student and teacher, the teacher trained."""
        student = from_module(self.student(self.task.info), self.task.info)
        suite: Any = type(self)  # mypy takes no class for hashable
        return {"teacher": _trained_teacher(suite), "student": student}

    def _train_on_last_batch(self) -> bool:
        losses = self._distil(task=make_task(count=42, seed=3)).losses
        return all(bool(loss.isfinite().all()) for loss in losses)

    def _evaluate_single_image(self) -> bool:
        seen = self._distil(epochs=0)
        if isinstance(seen.inner, nn.Module):
            seen.inner.eval()  # batch statistics need two images
        both = [seen.outputs(network, layers, 1) for network, layers in seen.listened]
        return seen.evaluate(_batch(self.task, 1), *both).is_finite

    def _distilled(self) -> Watched:
        """Return what was seen of the method in one stage, which several checks look at and none changes."""
        suite: Any = type(self)  # mypy takes no class for hashable
        return _distilled_once(suite)

    def _distil(
        self,
        method: Distiller | None = None,
        task: Task | None = None,
        context: Context | None = None,
        student: Artifact | None = None,
        stop_at: int | None = None,
        **train: Any,
    ) -> Watched:
        """Run a stage and return what was seen of the method in it."""
        method = method or self.make()
        hands_on_more = type(method).finish is not Distiller.finish
        seen = (WatchedToTheEnd if hands_on_more else Watched)(method, stop_at)
        inputs = self.inputs | ({"student": student} if student else {})
        stage = DistillStage(
            name="stage", method=seen, student="student", train=evolve(QUICK, **train), baseline=False
        )
        try:
            seen.artifact = stage.run(task or self.task, inputs, context or make_context())
        except StoppedError:
            if stop_at is None:
                raise
        except StageError:
            if not seen.changes_of_teacher():  # for which there is a check
                raise
        return seen


@frozen
class Evaluation:
    """A loss and its gradients.

    Args:
        value: The loss.
        gradients: With respect to the student's class scores and taps; zeros where there is none.
    """

    value: float
    gradients: Sequence[Tensor] = field(repr=False)

    @property
    def is_finite(self) -> bool:
        """Tell whether the loss and all gradients are finite."""
        everything = [torch.tensor(self.value), *self.gradients]
        return all(bool(tensor.isfinite().all()) for tensor in everything)


class Watched(Distiller):
    """A distiller that hands everything on to another, inside a stage, and keeps what it saw.

    Args:
        method: The distiller under test.
        stop_at: The batch in which to raise an error, counted from 1.
    """

    student: nn.Module
    teacher: nn.Module
    layers: tuple[Sequence[str], Sequence[str]]
    inner: Criterion
    artifact: Artifact | None = None

    def __init__(self, method: Distiller, stop_at: int | None = None):
        self.method, self.stop_at = method, stop_at
        claims = ("trains_teacher", "shows_images")
        vars(self).update({name: getattr(method, name) for name in claims})
        self.losses: list[Tensor] = []
        self.changed: set[str] = set()
        self.is_teacher_training = False
        self.own_start: dict[str, str] = {}

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
        self.student, self.teacher = student.network, teacher.network
        self._before = hashes(self.teacher.state_dict())
        self.layers = self.method.taps(student, teacher)
        return self.layers

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Criterion:
        self.inner = self.method.criterion(student, teacher, task)
        self.own_start = hashes(self.own_parameters())
        return WatchedParts(self.inner, self.loss) if isinstance(self.inner, nn.Module) else self.loss

    def turns(self, criterion: Criterion, student: Outputs, teacher: Outputs) -> Sequence[Turn]:
        return self.method.turns(self.inner, student, teacher)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        if len(self.losses) + 1 == self.stop_at:
            raise StoppedError
        tensors = handed(student=student, teacher=teacher, batch=batch)
        before = hashes(tensors)
        loss = self.inner(student, teacher, batch)
        self.changed |= set(differing(before, hashes(tensors)))
        self.is_teacher_training |= any(module.training for module in self.teacher.modules())
        self.losses.append(loss.detach())
        return mend(loss, student.logits)

    @property
    def finished(self) -> nn.Module:
        """The network that the stage hands on."""
        made = self.artifact.made if self.artifact is not None else None
        return self.student if made is None else made

    @property
    def listened(self) -> list[tuple[nn.Module, Sequence[str]]]:
        """Student and teacher, each with its taps."""
        return [(self.student, self.layers[0]), (self.teacher, self.layers[1])]

    def own_parameters(self) -> dict[str, Tensor]:
        """Return the weights of the criterion that ask for a gradient."""
        named = self.inner.named_parameters() if isinstance(self.inner, nn.Module) else ()
        return {name: p for name, p in named if p.requires_grad}

    def changes_of_teacher(self) -> list[str]:
        """List the teacher's tensors that are not what they were before the method saw them."""
        return differing(self._before, hashes(self.teacher.state_dict()))

    def outputs(self, network: nn.Module, layers: Sequence[str], count: int = 12) -> Outputs:
        """Return what a network puts out for a few images, in eval mode and without gradient."""
        images = _batch(make_task(), count).images
        tapped = Tapped(read_layers(network.eval(), images), layers)
        with torch.no_grad():
            found = tapped(images)
        tapped.close()
        return found

    def evaluate(self, batch: Batch, student: Outputs, teacher: Outputs) -> Evaluation:
        """Return loss and gradients for given outputs, with the criterion as it was before."""
        taps = {name: tensor.clone().requires_grad_() for name, tensor in student.taps.items()}
        own = evolve(student, logits=student.logits.clone().requires_grad_(), taps=taps)
        copies = {name: tensor.clone() for name, tensor in teacher.taps.items()}
        known = evolve(teacher, logits=teacher.logits.clone(), taps=copies)
        criterion = copy.deepcopy(self.inner) if isinstance(self.inner, nn.Module) else self.inner
        leaves = [own.logits, *taps.values()]
        with seeded(0):
            loss = mend(criterion(own, known, batch), own.logits)
            gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        return Evaluation(float(loss.detach()), [torch.zeros(1) if g is None else g for g in gradients])


@functools.lru_cache(maxsize=1)
def _distilled_once(suite: type[DistillerSuite]) -> Watched:
    return suite()._distil()


class WatchedToTheEnd(Watched):
    """The same for a method that hands on more than the student that was trained."""

    def finish(self, student: nn.Module, criterion: Criterion, task: TaskInfo) -> nn.Module:
        # of a copy, so that the student can still be seen as it was trained
        finished: nn.Module = self.method.finish(copy.deepcopy(student), self.inner, task)
        return finished


@functools.lru_cache(maxsize=1)
def _trained_teacher(suite: type[DistillerSuite]) -> Artifact:
    """Train a suite's teacher once for all of its checks; a stage works on a copy."""
    task = make_task()
    return from_module(train_alone(suite().teacher(task.info), task, THOROUGH), task.info)


def _has_parts(method: type[Any]) -> bool:
    return method.criterion is not Distiller.criterion


def _influential(network: nn.Module) -> list[str]:
    """List the parameters that class scores clearly depend on in training mode.

    A bias before a normalisation is none of them.
    """
    network = copy.deepcopy(network).train().requires_grad_(True)
    logits = network(_batch(make_task(), 20).images)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(5))
    names, parameters = zip(*network.named_parameters(), strict=True)
    gradients = torch.autograd.grad((logits * weights).sum(), parameters, allow_unused=True)
    return [n for n, g in zip(names, gradients, strict=True) if g is not None and float(g.abs().max()) > 1e-4]


def _is_alive(gradient: Tensor | None) -> bool:
    return gradient is not None and bool((gradient != 0).any())


def _wild(gradients: Mapping[str, Tensor | None]) -> list[str]:
    return [name for name, g in gradients.items() if g is not None and not bool(g.isfinite().all())]


def _batch(task: Task, count: int = 12) -> Batch:
    """Return the first images as a batch of training would hold them."""
    (images, labels, indices), *_ = task.train.batches(torch.arange(count), count)
    shown = (images.float() / 255 - task.info.mean[0]) / task.info.std[0]
    return Batch(shown, labels, indices, torch.zeros_like(indices))


def _select(outputs: Outputs, order: Tensor) -> Outputs:
    taps = {name: tensor[order] for name, tensor in outputs.taps.items()}
    return evolve(outputs, logits=outputs.logits[order], taps=taps)


def _select_batch(batch: Batch, order: Tensor) -> Batch:
    fields = ("images", "labels", "indices", "views")
    return evolve(batch, **{name: getattr(batch, name)[order] for name in fields})


def _cast(outputs: Outputs) -> Outputs:
    taps = {name: tensor.bfloat16() for name, tensor in outputs.taps.items()}
    return evolve(outputs, logits=outputs.logits.bfloat16(), taps=taps)


def _extremes(shape: torch.Size) -> dict[str, tuple[Tensor, Tensor]]:
    """Return scores for student and teacher that overflow or vanish in a careless softmax."""
    large = 1e4 * (1 - 2 * (torch.arange(shape[1]) % 2)).float().expand(shape)
    peak = torch.zeros(shape)
    peak[:, 0] = 1e4
    level = torch.zeros(shape)
    return {
        "scores of ±10,000, the teacher's the other way": (large, -large),
        "the same scores of ±10,000": (large, large),
        "scores that are all equal": (level, level),
        "one huge score of the teacher's": (level, peak),
        "one huge score of the student's": (peak, level),
    }


def _require_close(found: Tensor, want: Tensor, where: str) -> None:
    """Require what rounding to three digits leaves of a loss."""
    first, second = float(found.float().mean()), float(want.float().mean())
    require(
        abs(first - second) <= 0.1 * abs(second) + 0.1,
        f"{where} the loss must be about {second:.4f}, it is {first:.4f}",
    )
