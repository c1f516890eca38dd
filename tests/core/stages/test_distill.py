"""Distillation: a teacher that stays as it is, criteria that are trained, and a fair baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor, nn

from learnforge import Artifact, Batch, Context, Distiller, Outputs, StageError, Task, Train
from learnforge import context as context_module
from learnforge.artifact import NetworkSpec, copy_weights, from_module
from learnforge.stages.distill import DistillStage
from learnforge.stages.distill import stage as distill_module

MakeContext = Callable[..., Context]
QUICK = Train(epochs=2, batch_size=20)


class CutError(Exception):
    """Stands for a kill."""


class Convolutional(nn.Module):
    """A network with batch statistics, a scalar parameter and dropout."""

    def __init__(self, width: int = 4, outputs: int = 3):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(width * 9, outputs)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(images).flatten(1))) * self.scale
        return logits


@frozen
class Soft(Distiller):
    """Soft labels, with a record of what was seen."""

    seen: list[Any] = field(factory=list, eq=False)
    layers: tuple[Sequence[str], Sequence[str]] = ((), ())
    damage: Callable[[Any], None] | None = None

    def taps(self, student: nn.Module, teacher: nn.Module) -> tuple[Sequence[str], Sequence[str]]:
        return self.layers

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        self.seen.append((student, teacher, batch))
        if self.damage:
            self.damage(self.seen)
        return F.cross_entropy(student.logits, teacher.logits.softmax(1))


class Connector(nn.Module):
    """A criterion with parameters and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(3, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        self.calls += 1  # type: ignore[operator]
        return (self.map(student.logits) - teacher.logits).square().mean()


@frozen
class Connected(Distiller):
    """A distiller whose criterion is a module."""

    made: list[Connector] = field(factory=list, eq=False)

    def loss(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        raise AssertionError("the criterion is called instead")

    def criterion(self, student: Outputs, teacher: Outputs, task: Task) -> Connector:
        assert student.logits.shape == teacher.logits.shape == (4, task.info.outputs)
        assert not student.logits.requires_grad
        torch.manual_seed(1)
        self.made.append(Connector())
        return self.made[-1]


@pytest.fixture
def inputs(task: Task) -> dict[str, Artifact]:
    """A teacher and a student, both the caller's own modules with weights."""
    torch.manual_seed(0)
    teacher, student = Convolutional(8), Convolutional(4)
    teacher.train()
    teacher(torch.randn(16, 1, 8, 8))  # running statistics that are not the initial ones
    return {"teacher": from_module(teacher, task.info), "student": from_module(student, task.info)}


def distil(method: Distiller, **settings: Any) -> DistillStage:
    """Make a stage."""
    options = {"train": QUICK, "student": "student", **settings}
    return DistillStage(name="stage", method=method, **options)


class Teacher(Convolutional):
    """Records itself, to be looked at after the stage."""

    made: list[Teacher] = []  # noqa: RUF012 - the point is to share it

    def __deepcopy__(self, memo: Any) -> Teacher:
        own = Teacher(8)
        own.load_state_dict(self.state_dict())
        Teacher.made.append(own)
        return own


def test_the_teacher_stays_bit_for_bit(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """The teacher is frozen and in eval mode for every batch; weights and batch statistics do not change."""
    torch.manual_seed(0)
    teacher = Teacher(8)
    teacher(torch.randn(16, 1, 8, 8))
    before, modes = copy_weights(teacher), []
    Teacher.made.clear()

    def look(seen: Any) -> None:
        modes.append([module.training for module in Teacher.made[0].modules()])
        assert not seen[-1][1].logits.requires_grad

    inputs = {**inputs, "teacher": from_module(teacher, task.info)}
    distil(Soft(damage=look)).run(task, inputs, make_context(None))
    (used,) = Teacher.made
    assert len(modes) == 6
    assert not any(mode for row in modes for mode in row)
    assert not any(p.requires_grad for p in used.parameters())
    for name, tensor in used.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def _nudge_weight(network: Convolutional) -> None:
    network.head.weight.data[0, 0] += 1e-3


def _nudge_statistics(network: Convolutional) -> None:
    network.features[1].running_mean += 1e-3  # type: ignore[operator]


def _nudge_scale(network: Convolutional) -> None:
    network.scale.data += 1e-3


@pytest.mark.parametrize("nudge", [_nudge_weight, _nudge_statistics, _nudge_scale])
def test_a_distiller_that_changes_its_teacher_is_refused(
    nudge: Callable[[Any], None], task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """A changed weight, statistic or scalar of the teacher ends the stage with an error."""
    Teacher.made.clear()
    changed = {**inputs, "teacher": from_module(Teacher(8), task.info)}
    with pytest.raises(StageError, match="the distiller Soft changed its teacher, which must stay as it is"):
        distil(Soft(damage=lambda seen: nudge(Teacher.made[0]))).run(task, changed, make_context(None))


def test_a_channels_last_teacher_is_compared_as_well(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """The memory layout of a teacher's weights does not matter."""
    layers = [nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)]
    teacher = nn.Sequential(*layers).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    changed = {**inputs, "teacher": from_module(teacher, task.info)}
    artifact = distil(Soft(), baseline=False).run(task, changed, make_context(None))
    assert len(artifact.metrics["history"]["student"]) == 2


def test_a_criterion_is_trained_and_dropped(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """A module criterion's parameters move; the artifact holds the student's tensors and nothing else."""
    method = Connected()
    artifact = distil(method).run(task, inputs, make_context(None))
    torch.manual_seed(1)
    fresh = Connector()
    assert not torch.equal(method.made[0].map.weight, fresh.map.weight)
    assert int(method.made[0].calls) == 6  # type: ignore[operator]
    assert artifact.weights is not None
    assert inputs["student"].weights is not None
    assert set(artifact.weights) == set(inputs["student"].weights)


def test_a_criterion_is_checkpointed(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off and continued, student and criterion end with the same bits."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["epoch"] == 2:
            raise CutError

    whole, again = Connected(), Connected()
    expected = distil(whole).run(task, inputs, make_context(None))
    with pytest.raises(CutError):
        distil(Connected()).run(task, inputs, make_context(emit=stop))
    found = distil(again).run(task, inputs, make_context())
    for name, tensor in whole.made[0].state_dict().items():
        assert torch.equal(tensor, again.made[0].state_dict()[name])
    assert found.weights is not None
    assert expected.weights is not None
    assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in found.weights.items())
    assert found.metrics["history"] == expected.metrics["history"]


def test_taps_reach_the_loss_and_their_hooks_go(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss sees the named layers of both networks; afterwards no hook is left, also after an error."""
    networks: list[nn.Module] = []
    tapped = distill_module.Tapped
    monkeypatch.setattr(
        distill_module,
        "Tapped",
        lambda network, layers: (networks.append(network), tapped(network, layers))[1],
    )
    method = Soft(layers=(["features.0"], ["features", "head"]))
    distil(method, baseline=False).run(task, inputs, make_context(None))
    student, teacher, batch = method.seen[0]
    assert {name: t.shape for name, t in student.taps.items()} == {"features.0": (20, 4, 3, 3)}
    assert {name: t.shape for name, t in teacher.taps.items()} == {"features": (20, 8, 3, 3), "head": (20, 3)}
    assert student.taps["features.0"].requires_grad
    assert not teacher.taps["features"].requires_grad
    assert len(batch.labels) == 20

    def fail(seen: Any) -> None:
        raise CutError

    with pytest.raises(CutError):
        distil(evolve(method, damage=fail)).run(task, inputs, make_context(None))
    assert len(networks) == 4
    assert all(not module._forward_hooks for network in networks for module in network.modules())


def test_an_unknown_tap_names_the_layers(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """A tap that is no layer is refused with the nearest name."""
    with pytest.raises(StageError, match="Convolutional has no layer 'heads'; did you mean 'head'"):
        distil(Soft(layers=(["heads"], []))).run(task, inputs, make_context(None))


def test_student_and_baseline_get_the_same_start_and_batches(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both trainings start from the same weights and see the same views in the same order."""
    starts: dict[str, dict[str, Tensor]] = {}
    batches: dict[str, list[Any]] = {"student": [], "baseline": []}
    fit = distill_module.fit

    def spy(trainee: Any, split: Any, info: Any, train: Any, context: Any, part: str, *rest: Any) -> Any:
        starts[part] = copy_weights(trainee.network)

        def loss(batch: Batch) -> Tensor:
            batches[part].append((batch.indices.tolist(), batch.views.tolist()))
            found: Tensor = trainee.loss(batch)
            return found

        return fit(evolve(trainee, loss=loss), split, info, train, context, part, *rest)

    monkeypatch.setattr(distill_module, "fit", spy)
    artifact = distil(Soft(), train=evolve(QUICK, crop=1)).run(task, inputs, make_context(None))
    assert all(torch.equal(t, starts["baseline"][name]) for name, t in starts["student"].items())
    assert batches["student"] == batches["baseline"]
    assert len(batches["student"]) == 6
    assert set(artifact.metrics["history"]) == {"student", "baseline"}


def test_the_student_is_handed_on_with_its_scores(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """The artifact's network is the distilled student, not the baseline; the scores are its own."""
    settings = {"train": evolve(QUICK, epochs=6, learning_rate=1e-2)}
    with_baseline = distil(Soft(), **settings).run(task, inputs, make_context(None))
    without = distil(Soft(), baseline=False, **settings).run(task, inputs, make_context(None))
    assert with_baseline.weights is not None
    assert without.weights is not None
    assert all(torch.equal(t, without.weights[name]) for name, t in with_baseline.weights.items())
    scores = with_baseline.predict(task.test.images)  # type: ignore[attr-defined]
    accuracy = float((scores.argmax(1) == task.test.labels).double().mean())
    assert with_baseline.metrics["test_accuracy"] == accuracy
    known = inputs["teacher"].predict(task.test.images)  # type: ignore[attr-defined]
    agreement = float((scores.argmax(1) == known.argmax(1)).double().mean())
    assert with_baseline.metrics["agreement"] == agreement
    assert with_baseline.metrics["teacher_parameters"] == 8 * 9 + 8 + 16 + 1 + 72 * 3 + 3
    assert "baseline_test_accuracy" not in without.metrics
    assert with_baseline.provenance.origins == set(task.info.origins)


def test_check_wants_the_tasks_classes(task: Task, inputs: dict[str, Artifact]) -> None:
    """Teacher and student must have the task's classes; each that has not is reported."""
    other = evolve(task.info, classes=("a", "b"), origins=("d:0", "d:1"))
    wrong = {role: Artifact(NetworkSpec("model", {"use": "conv4"}), other) for role in ("teacher", "student")}
    stage = distil(Soft())
    assert stage.check(task, inputs) == []
    assert [str(problem) for problem in stage.check(task, wrong)] == [
        f"{role}: must tell apart the task's classes stripe 0, stripe 1, stripe 2; it knows a, b"
        for role in ("teacher", "student")
    ]
    turned = evolve(task.info, classes=task.info.classes[::-1])
    backwards = {role: evolve(artifact, task=turned) for role, artifact in inputs.items()}
    assert len(stage.check(task, backwards)) == 2
    larger = {role: evolve(a, task=evolve(task.info, input_shape=(1, 9, 9))) for role, a in inputs.items()}
    assert "must take images of shape [1, 8, 8]" in str(stage.check(task, larger)[0])
