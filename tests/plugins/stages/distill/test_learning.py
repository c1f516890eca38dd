"""Distillers that train more than the student: a teacher that learns too, modules with steps of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor, nn

from learnforge import Artifact, Batch, Context, Distiller, Outputs, Plugins, StageError, Task, Turn
from learnforge import context as context_module
from learnforge.artifact import from_module
from learnforge.spec import NetworkSpec
from learnforge_kit import Train
from learnforge_plugins.optimizers.torch import SGD
from tests.plugins.stages.distill.test_stage import Convolutional, CutError, distil, weights_of

MakeContext = Callable[..., Context]


@frozen
class Mutual(Distiller):
    """Both learn from labels and from each other."""

    trains_teacher: ClassVar[bool] = True
    seen: list[Outputs] = field(factory=list, eq=False)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        self.seen.append(teacher)
        s, t = student.logits.log_softmax(1), teacher.logits.log_softmax(1)
        apart = sum(
            F.kl_div(a, b.detach(), reduction="batchmean", log_target=True) for a, b in ((s, t), (t, s))
        )
        labels = [F.cross_entropy(own.logits, batch.labels) for own in (student, teacher)]
        return apart + labels[0] + labels[1]


class Perturbation(nn.Module):
    """One image for all, which is added to the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((1, 1, 8, 8), 0.01))
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        images = batch.images + self.shift
        return self.gain * (student.run(images).logits - teacher.run(images).logits).square().mean()


class Shift(nn.Module):
    """The part of a perturbation that has steps of its own."""

    def __init__(self, owner: Perturbation):
        super().__init__()
        self.shift = owner.shift


@frozen
class Adversarial(Distiller):
    """Shows what student and teacher differ most about."""

    shows_images: ClassVar[bool] = False
    rate: float = 0.5
    steps: int = 2
    momentum: float = 0.0
    seen: list[tuple[Outputs, Outputs]] = field(factory=list, eq=False)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        raise AssertionError("the criterion is called instead")

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Perturbation:
        return Perturbation()

    def turns(self, criterion: Any, student: Outputs, teacher: Outputs) -> Sequence[Turn]:
        self.seen.append((student, teacher))
        own = cast("Perturbation", criterion)
        optimizer = SGD(momentum=self.momentum, nesterov=False)
        return [
            Turn(Shift(own), lambda batch: -own(student, teacher, batch), optimizer, self.rate, self.steps)
        ]


def fresh(width: int) -> Artifact:
    """Make an artifact of a network without weights, of a model."""
    info = NetworkSpec("model", {"use": "conv4", "width": width, "blocks": 2})
    return Artifact(info, None)  # type: ignore[arg-type]


@pytest.fixture
def networks(task: Task) -> dict[str, Artifact]:
    """A teacher and a student that know nothing."""
    return {"teacher": evolve(fresh(8), task=task.info), "student": evolve(fresh(4), task=task.info)}


def cut_at(epoch: int) -> Callable[..., None]:
    """Return what stops a training at the end of an epoch."""

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["epoch"] == epoch:
            raise CutError

    return stop


def test_a_teacher_that_learns(task: Task, networks: dict[str, Artifact], make_context: MakeContext) -> None:
    """Both begin with nothing and know the task in the end; the teacher's outputs have gradients."""
    method = Mutual()
    stage = distil(method, train=Train(epochs=15, batch_size=20, learning_rate=0.01), baseline=False)
    found = stage.run(task, networks, make_context(None)).metrics
    assert found["test_accuracy"] > 0.8
    assert found["teacher_test_accuracy"] > 0.8
    assert all(outputs.logits.requires_grad for outputs in method.seen)


def test_a_teacher_that_learns_goes_on(
    task: Task, networks: dict[str, Artifact], make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off and continued, student and teacher have the bits of a training that never stopped."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    stage = distil(Mutual(), train=Train(epochs=3, batch_size=20, weights="best"), baseline=False)
    expected = stage.run(task, networks, make_context(None))
    with pytest.raises(CutError):
        stage.run(task, networks, make_context(emit=cut_at(2)))
    found = stage.run(task, networks, make_context())
    assert weights_of(found) == weights_of(expected)
    assert found.metrics["teacher_test_accuracy"] == expected.metrics["teacher_test_accuracy"]
    assert found.metrics["history"] == expected.metrics["history"]


def test_what_does_not_go_with_a_learning_teacher(
    task: Task, networks: dict[str, Artifact], plugins: Plugins
) -> None:
    """Caches, several teachers and chains are refused before anything is trained; a fresh teacher is not."""
    assert distil(Mutual()).check(task, networks, plugins) == []
    settings = {"cache": "views", "generations": 2, "assistants": 1, "teacher_precision": "bf16"}
    both = {
        "teacher[0]": networks["teacher"],
        "teacher[1]": networks["teacher"],
        "student": networks["student"],
    }
    found = distil(Mutual(), **settings).check(task, both, plugins)
    refused = {problem.path for problem in found if "where the teacher learns too" in str(problem)}
    assert refused == {"teacher", *settings}


def test_a_turn_is_what_the_formula_says(task: Task, make_context: MakeContext) -> None:
    """Two steps up the loss by the shift, at its own rate, then one down by the student; nobody is run on the
    images themselves.
    """
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2)]
    before = [p.detach().clone() for p in networks[1].parameters()]
    inputs = dict(zip(("teacher", "student"), (from_module(n, task.info) for n in networks), strict=True))
    method = Adversarial()
    train = Train(
        epochs=1,
        batch_size=60,
        optimizer=SGD(momentum=0.0),
        learning_rate=0.1,
        weight_decay=0.0,
        schedule="constant",
    )
    stage = distil(method, train=train, baseline=False)
    made = stage.run(task, inputs, make_context(None))
    ((blank, _),) = method.seen
    assert blank.logits.shape == (0, 3)

    images = task.train.images.float().sub(255 * 0.3).div(255 * 0.25)  # type: ignore[attr-defined]
    shift, gain = torch.full((1, 1, 8, 8), 0.01), torch.ones(())
    teacher = networks[0]
    weight, bias = (t.clone().requires_grad_() for t in before)

    def gap(shift: Tensor, gain: Tensor) -> Tensor:
        shown = (images + shift).flatten(1)
        return gain * (F.linear(shown, weight, bias) - teacher(images + shift)).square().mean()

    for _ in range(2):
        shift.requires_grad_()
        (slope,) = torch.autograd.grad(gap(shift, gain), shift)
        shift = (shift + 0.5 * slope).detach()
    slopes = torch.autograd.grad(gap(shift, gain), (weight, bias))
    assert made.weights is not None
    for name, start, slope in zip(("1.weight", "1.bias"), before, slopes, strict=True):
        torch.testing.assert_close(made.weights[name], start - 0.1 * slope, rtol=1e-4, atol=1e-6)


def test_turns_go_on_with_their_optimizers(
    task: Task, make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off and continued, momentum of a turn and its module are where they were."""
    torch.manual_seed(0)
    inputs = {role: from_module(Convolutional(4), task.info) for role in ("teacher", "student")}
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    stage = distil(Adversarial(momentum=0.9), train=Train(epochs=3, batch_size=20), baseline=False)
    expected = stage.run(task, inputs, make_context(None))
    with pytest.raises(CutError):
        stage.run(task, inputs, make_context(emit=cut_at(2)))
    assert weights_of(stage.run(task, inputs, make_context())) == weights_of(expected)


def test_running_statistics_do_not_follow_turns(task: Task, make_context: MakeContext) -> None:
    """They count the student's own steps."""
    torch.manual_seed(0)
    inputs = {role: from_module(Convolutional(4), task.info) for role in ("teacher", "student")}
    train = Train(epochs=1, batch_size=20)
    made = distil(Adversarial(steps=3), train=train, baseline=False).run(task, inputs, make_context(None))
    assert made.weights is not None
    assert int(made.weights["features.1.num_batches_tracked"]) == 3


def test_methods_that_train_more_are_not_added_up(plugins: Plugins) -> None:
    """The sum of several distillers refuses them, by name."""
    add = plugins.load("distiller", "sum")
    for method in (Mutual(), Adversarial()):
        with pytest.raises(ValueError, match=f"{type(method).__name__} trains more than the student"):
            add(methods=(method,))


@frozen
class Wandering(Adversarial):
    """Trains what is not a part of its criterion."""

    where: Callable[[Any], nn.Module] = field(default=lambda criterion: nn.ReLU(), eq=False)

    def turns(self, criterion: Any, student: Outputs, teacher: Outputs) -> Sequence[Turn]:
        return [Turn(self.where(criterion), lambda batch: criterion(student, teacher, batch))]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        (lambda criterion: nn.ReLU(), "ReLU has nothing to train"),
        (lambda criterion: nn.Linear(2, 2), "Linear has weights that are no part of the criterion"),
    ],
)
def test_a_turn_trains_a_part_of_the_criterion(
    task: Task, make_context: MakeContext, where: Callable[[Any], nn.Module], words: str
) -> None:
    """What would not be checkpointed is refused in words."""
    inputs = {role: from_module(Convolutional(4), task.info) for role in ("teacher", "student")}
    stage = distil(Wandering(where=where), train=Train(epochs=1, batch_size=20), baseline=False)
    with pytest.raises(StageError, match=words):
        stage.run(task, inputs, make_context(None))


def test_outputs_without_a_network_cannot_be_run() -> None:
    """The words say so."""
    with pytest.raises(StageError, match="there is no network behind these outputs"):
        Outputs(torch.zeros(1, 2)).run(torch.zeros(1, 1, 8, 8))
