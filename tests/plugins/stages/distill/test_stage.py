"""Distillation: a teacher that stays as it is, criteria that are trained, and a fair baseline."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor, nn

from learnforge import (
    Artifact,
    Batch,
    Context,
    Distiller,
    Layers,
    Outputs,
    PluginChoice,
    Plugins,
    RecipeError,
    RunError,
    StageError,
    Task,
    load_method,
)
from learnforge import context as context_module
from learnforge.artifact import from_module
from learnforge.check import Tasks, check_recipe
from learnforge.recipe import parse_recipe
from learnforge.spec import NetworkSpec, copy_weights
from learnforge_kit import CacheWarning, Train
from learnforge_kit.errors import GapWarning
from learnforge_kit.training import loop as loop_module
from learnforge_plugins.stages.distill import training as distill_module
from learnforge_plugins.stages.distill.stage import DistillStage, StudentSearch
from learnforge_testing.toys import make_task

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

    def taps(self, student: Layers, teacher: Layers) -> tuple[Sequence[str], Sequence[str]]:
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
    used = Teacher.made[0]
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
        lambda layers, names: (networks.append(layers.network), tapped(layers, names))[1],
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

    def spy(
        trainee: Any, split: Any, info: Any, train: Any, context: Any, part: str, *rest: Any, **named: Any
    ) -> Any:
        starts[part] = copy_weights(trainee.network)

        def loss(batch: Batch) -> Tensor:
            batches[part].append((batch.indices.tolist(), batch.views.tolist()))
            found: Tensor = trainee.loss(batch)
            return found

        return fit(evolve(trainee, loss=loss), split, info, train, context, part, *rest, **named)

    for module in (distill_module, loop_module):
        monkeypatch.setattr(module, "fit", spy)
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
    assert with_baseline.metrics["teacher_macs"] > with_baseline.metrics["macs"]
    assert with_baseline.metrics["teacher_latency_ms"] > 0
    assert "baseline_test_accuracy" not in without.metrics
    assert with_baseline.provenance.origins == set(task.info.origins)


def test_check_wants_the_tasks_classes(task: Task, inputs: dict[str, Artifact]) -> None:
    """Teacher and student must have the task's classes; each that has not is reported."""
    other = evolve(task.info, classes=("a", "b"), origins=("d:0", "d:1"))
    wrong = {role: Artifact(NetworkSpec("model", {"use": "conv4"}), other) for role in ("teacher", "student")}
    stage = distil(Soft())
    assert stage.check(task, inputs, Plugins()) == []
    assert [str(problem) for problem in stage.check(task, wrong, Plugins())] == [
        f"{role}: must tell apart the task's classes stripe 0, stripe 1, stripe 2; it knows a, b"
        for role in ("teacher", "student")
    ]
    turned = evolve(task.info, classes=task.info.classes[::-1])
    backwards = {role: evolve(artifact, task=turned) for role, artifact in inputs.items()}
    assert len(stage.check(task, backwards, Plugins())) == 2
    larger = {role: evolve(a, task=evolve(task.info, input_shape=(1, 9, 9))) for role, a in inputs.items()}
    assert "must take images of shape [1, 8, 8]" in str(stage.check(task, larger, Plugins())[0])


# Chains, caches and several teachers


@pytest.fixture
def models(task: Task) -> dict[str, Artifact]:
    """A teacher and a student as models without weights."""
    return {
        "teacher": Artifact(NetworkSpec("model", {"use": "conv4", "width": 16, "blocks": 2}), task.info),
        "student": Artifact(NetworkSpec("model", {"use": "conv4", "width": 3, "blocks": 2}), task.info),
    }


def weights_of(artifact: Artifact) -> dict[str, bytes]:
    """Return the bytes of an artifact's weights."""
    assert artifact.weights is not None
    return {name: tensor.numpy().tobytes() for name, tensor in artifact.weights.items()}


def test_mixed_images_are_refused_where_they_make_no_sense(task: Task, inputs: dict[str, Artifact]) -> None:
    """Mixtures are shown once, so no cache holds them; and methods that ask for an image's class get none."""
    mixed = evolve(QUICK, mixup=0.2)
    faults = distil(Soft(), train=mixed, cache="views").check(task, inputs, Plugins())
    assert [str(f) for f in faults] == [
        "cache: must be off where `train` mixes images (mixup, cutmix) or hides parts of them (time_mask, "
        "frequency_mask): what is shown is shown only once"
    ]
    dkd = load_method("distiller.dkd")()
    both = load_method("distiller.sum")(methods=(Soft(), dkd))
    for method in (dkd, both):
        faults = distil(method, train=mixed).check(task, inputs, Plugins())
        assert [f.path for f in faults] == ["train"]
    assert distil(Soft(), train=mixed).check(task, inputs, Plugins()) == []


LONGER = Train(epochs=4, batch_size=16, crop=1, flip=True)


def test_the_cache_changes_no_bit(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext, tmp_path: Path
) -> None:
    """Without a cache, with a cold one, with a warm one and with one that soon is full: the same student."""
    stage = distil(Soft(), train=LONGER, baseline=False)
    plain = stage.run(task, inputs, make_context(None))
    cached = evolve(stage, cache="views")
    contexts = [make_context(None, cache_folder=tmp_path / "cache") for _ in range(2)]
    cold, warm = (cached.run(task, inputs, context) for context in contexts)
    tight = evolve(cached, cache_gib=(4 * (60 * 18 + 1) + 16 * 30) / 2**30)
    full = tight.run(task, inputs, make_context(None, cache_folder=tmp_path / "small"))
    alone = cached.run(task, inputs, make_context(None))  # its folder goes with the stage
    assert weights_of(plain) == weights_of(cold) == weights_of(warm) == weights_of(full) == weights_of(alone)
    counts = [a.metrics["teacher_forwards"] for a in (plain, cold, warm, full)]
    assert [count["asked"] for count in counts] == [240] * 4
    assert counts[0]["computed"] == 240
    assert counts[1]["computed"] < 240
    assert counts[2] == {"asked": 240, "computed": 0, "saved": 1.0}
    assert 200 < counts[3]["computed"] < 300


def test_a_disk_without_room_for_the_cache_costs_time_alone(
    task: Task,
    inputs: dict[str, Artifact],
    make_context: MakeContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Said once, the stage goes on without it to the same student; rounded scores are none without it."""

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stage = distil(Soft(), train=LONGER, baseline=False)
    plain = stage.run(task, inputs, make_context(None))
    monkeypatch.setattr("os.posix_fallocate", refuse)
    context = make_context(None, cache_folder=tmp_path / "cache")
    with pytest.warns(CacheWarning, match="the teacher's scores are not kept: .*the disk is full"):
        found = evolve(stage, cache="views").run(task, inputs, context)
    assert weights_of(found) == weights_of(plain)
    with pytest.raises(RunError, match="the disk is full"):
        evolve(stage, cache="views", cache_precision="16").run(task, inputs, context)


def test_students_share_a_cache(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext, tmp_path: Path
) -> None:
    """Another student of the same seed finds all that the first one asked, another teacher finds nothing."""
    stage = distil(Soft(), train=LONGER, baseline=False, cache="views")
    context = make_context(None, cache_folder=tmp_path / "cache")
    stage.run(task, inputs, context)
    torch.manual_seed(5)
    other = stage.run(task, {**inputs, "student": from_module(Convolutional(2), task.info)}, context)
    assert other.metrics["teacher_forwards"]["computed"] == 0
    third = stage.run(task, {**inputs, "teacher": from_module(Convolutional(16), task.info)}, context)
    assert third.metrics["teacher_forwards"]["computed"] > 0
    assert len(list((tmp_path / "cache" / "teachers").glob("*/about.json"))) == 2


def test_half_precision_is_approximate(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """Scores kept in half precision give a student that is close, and not the same."""
    stage = distil(Soft(), train=LONGER, baseline=False)
    exact = stage.run(task, inputs, make_context(None))
    rounded = evolve(stage, cache="views", cache_precision="16").run(task, inputs, make_context(None))
    assert weights_of(exact) != weights_of(rounded)
    first, second = exact.metrics["history"]["student"][0], rounded.metrics["history"]["student"][0]
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-2)


def test_a_cut_off_training_with_a_cache_ends_with_the_same_bits(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its second epoch, a stage with a cache goes on to the student of one without."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["epoch"] == 2:
            raise CutError

    stage = distil(Soft(), train=LONGER, baseline=False)
    expected = stage.run(task, inputs, make_context(None))
    cached = evolve(stage, cache="views")
    with pytest.raises(CutError):
        cached.run(task, inputs, make_context(emit=stop))
    assert weights_of(cached.run(task, inputs, make_context())) == weights_of(expected)


def test_the_cache_is_refused_where_it_cannot_be_exact(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext, tmp_path: Path
) -> None:
    """Methods that listen to the teacher, and plugins that change batches, cannot be served, and are told."""
    listening = distil(Soft(layers=([], ["features"])), cache="views")
    with pytest.raises(
        StageError, match="holds class scores alone, and Soft listens to layers of the teacher"
    ):
        listening.run(task, inputs, make_context(None))

    file = tmp_path / "mixing.py"
    hook = "@hookimpl\ndef learnforge_batch(batch, stage):\n    return batch\n"
    file.write_text(f"from learnforge import hookimpl\n\n{hook}")
    mixing = Plugins(PluginChoice(files=[str(file)]))
    with pytest.raises(StageError, match="a plugin changes batches"):
        distil(Soft(), cache="views").run(task, inputs, evolve(make_context(None), plugins=mixing))


def test_a_teacher_without_weights_is_trained_first(
    task: Task, models: dict[str, Artifact], make_context: MakeContext
) -> None:
    """`teacher_train` trains a model on labels; the check refuses a model without weights and without it."""
    conv4 = load_method("model.conv4")
    stage = distil(
        Soft(), teacher=conv4(width=16, blocks=2), student=conv4(width=3, blocks=2), baseline=False
    )
    (problem,) = stage.check(task, models, Plugins())
    assert problem.path == "teacher"
    assert "a model without weights for the task's classes, which knows nothing yet" in problem.message
    trained = evolve(stage, teacher_train=Train(epochs=8, batch_size=20, learning_rate=1e-2))
    assert trained.check(task, models, Plugins()) == []
    artifact = trained.run(task, models, make_context(None))
    assert len(artifact.metrics["history"]["teacher"]) == 8
    assert artifact.metrics["teacher_test_accuracy"] > 0.8


def test_several_teachers_teach_as_one(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """The loss sees the weighted mean of the teachers' scores; metrics are those of all together."""
    torch.manual_seed(3)
    second = from_module(Convolutional(6), task.info)
    pair = {"teacher[0]": inputs["teacher"], "teacher[1]": second, "student": inputs["student"]}
    method = Soft()
    stage = distil(method, teacher=("a", "b"), teacher_weights=(1.0, 3.0), baseline=False)
    assert stage.check(task, pair, Plugins()) == []
    artifact = stage.run(task, pair, make_context(None))
    batch = method.seen[0][2]
    own = [a.network().eval()(batch.images) for a in (inputs["teacher"], second)]
    assert torch.allclose(method.seen[0][1].logits, 0.25 * own[0] + 0.75 * own[1], atol=1e-5)
    parts = [sum(t.numel() for t in a.network().parameters()) for a in (inputs["teacher"], second)]
    assert artifact.metrics["teacher_parameters"] == sum(parts)
    with pytest.raises(StageError, match="there are 2 teachers; give it one"):
        evolve(stage, method=Soft(layers=([], ["features"]))).run(task, pair, make_context(None))
    (problem,) = evolve(stage, teacher_weights=(1.0,)).check(task, pair, Plugins())
    assert str(problem) == "teacher_weights: must be one number for each of 2 teachers, got [1.0]"


def is_from_teacher(seen: Any, models: dict[str, Artifact], make_context: MakeContext) -> bool:
    """Tell whether what a batch was taught is what the stage's own teacher, untrained, says of it."""
    network = models["teacher"].network(seed=make_context(None).derive("teacher")).eval()
    with torch.no_grad():
        return torch.allclose(seen[1].logits, network(seen[2].images), atol=1e-5)


def test_generations_teach_each_other(
    task: Task, models: dict[str, Artifact], make_context: MakeContext
) -> None:
    """Each generation has fresh weights and is taught by the one before; the last one is handed on."""
    method = Soft()
    stage = distil(method, generations=3, teacher_train=Train(epochs=0), baseline=False)
    artifact = stage.run(task, models, make_context(None))
    history = artifact.metrics["history"]
    assert list(history) == ["teacher", "generation 1", "generation 2", "student"]
    once = distil(Soft(), teacher_train=Train(epochs=0), baseline=False)
    assert weights_of(once.run(task, models, make_context(None))) != weights_of(artifact)
    assert [is_from_teacher(method.seen[number], models, make_context) for number in (0, 6, 12)] == [
        True,
        False,
        False,
    ]


def test_assistants_stand_in_between(
    task: Task, models: dict[str, Artifact], make_context: MakeContext
) -> None:
    """The teacher teaches the assistant, the assistant the student; the report knows who it was."""
    method = Soft()
    stage = distil(method, assistants=1, teacher_train=Train(epochs=0), baseline=False)
    artifact = stage.run(task, models, make_context(None))
    assert [is_from_teacher(method.seen[number], models, make_context) for number in (0, 6)] == [True, False]
    (assistant,) = artifact.metrics["assistants"]
    assert assistant["use"] == "conv4"
    assert 3 < assistant["width"] < 16
    assert list(artifact.metrics["history"]) == ["teacher", "assistant 1", "student"]
    own = load_method("model.conv4")(width=5, blocks=2)
    named = evolve(stage, assistants=0, assistant_models=(own,)).run(task, models, make_context(None))
    assert [model["width"] for model in named.metrics["assistants"]] == [5]
    (problem,) = evolve(stage, assistant_models=(own,)).check(task, models, Plugins())
    assert problem.path == "assistants"


def test_a_killed_chain_goes_on(
    task: Task, models: dict[str, Artifact], make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off while its assistant trains, a chain ends with the bits of one that never stopped."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    stage = distil(
        Soft(), assistants=1, generations=2, teacher_train=Train(epochs=1), cache="views", baseline=False
    )

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["part"] == "assistant 1":
            raise CutError

    expected = stage.run(task, models, make_context(None))
    with pytest.raises(CutError):
        stage.run(task, models, make_context(emit=stop))
    found = stage.run(task, models, make_context())
    assert weights_of(found) == weights_of(expected)
    assert found.metrics["history"] == expected.metrics["history"]
    counts = [a.metrics["teacher_forwards"]["asked"] for a in (found, expected)]
    assert counts == [3 * 2 * 60] * 2  # three lessons of two epochs


def test_a_wide_gap_is_warned_of(task: Task, models: dict[str, Artifact], make_context: MakeContext) -> None:
    """More than 20 times the parameters: a warning before training, and words for the report."""
    wide = {
        **models,
        "teacher": Artifact(NetworkSpec("model", {"use": "conv4", "width": 48, "blocks": 2}), task.info),
    }
    stage = distil(Soft(), train=Train(epochs=0), teacher_train=Train(epochs=0), baseline=False)
    with pytest.warns(GapWarning, match="times as many parameters as what it teaches"):
        artifact = stage.run(task, wide, make_context(None))
    assert artifact.metrics["capacity_ratio"] > 20
    assert len(artifact.metrics["warnings"]) == 1
    bridged = evolve(stage, assistants="auto").run(task, wide, make_context(None))
    assert bridged.metrics["warnings"] == []
    assert len(bridged.metrics["assistants"]) == 1


def test_a_fresh_student_forgets_what_it_came_with(
    task: Task, models: dict[str, Artifact], make_context: MakeContext
) -> None:
    """With `fresh` an artifact's weights do not count; a module of the caller's has no others."""
    stage = distil(Soft(), fresh=True, teacher_train=Train(epochs=0), train=Train(epochs=0), baseline=False)
    bare = stage.run(task, models, make_context(None))
    taught = evolve(stage, train=QUICK, fresh=False).run(task, models, make_context(None))
    again = stage.run(task, {**models, "student": taught}, make_context(None))
    assert weights_of(again) == weights_of(bare)
    own = {**models, "student": from_module(Convolutional(4), task.info)}
    assert [p.path for p in evolve(stage, generations=2).check(task, own, Plugins())] == [
        "fresh",
        "generations",
    ]


def test_a_rounded_cache_is_another_stage() -> None:
    """Where scores are kept does not count, unless they are rounded: then the student is another one."""
    prints = [
        distil(Soft(), cache=cache, cache_precision=precision).fingerprint_data()
        for cache, precision in (("off", "32"), ("views", "32"), ("off", "16"), ("views", "16"))
    ]
    assert prints[0] == prints[1] == prints[2] != prints[3]


def test_too_few_sizes_are_found_before_training(task: Task, models: dict[str, Artifact]) -> None:
    """Assistants that cannot be had are a problem of the recipe."""
    near = Artifact(NetworkSpec("model", {"use": "conv4", "width": 4, "blocks": 2}), task.info)
    stage = distil(Soft(), assistants=1, teacher_train=Train(epochs=1))
    (problem,) = stage.check(task, {**models, "teacher": near}, Plugins())
    assert problem.path == "assistants"
    assert "there are not 1 sizes between" in problem.message


def test_wrong_wiring_is_found_before_training(task: Task, models: dict[str, Artifact]) -> None:
    """Where both networks are known, a layer that does not exist is a problem of the recipe."""
    fitnet = load_method("distiller.fitnet")
    stage = distil(fitnet(pairs={"stage 1": "stage 9"}), teacher_train=Train(epochs=0))
    (problem,) = stage.check(task, models, Plugins())
    assert problem.path == "options"
    assert "Sequential has no 'stage 9': it has 3. Stages: stage 1 = 2 [16, 8, 8]" in problem.message
    assert distil(fitnet(), teacher_train=Train(epochs=0)).check(task, models, Plugins()) == []


def test_wrong_wiring_is_found_for_models_from_files(tmp_path: Path) -> None:
    """A layer that does not exist is refused whether the student is built in or comes from `--plugin FILE`,
    before the teacher is trained.
    """
    file = tmp_path / "mine.py"
    file.write_text(
        "from attrs import frozen\n"
        "from learnforge import Model, hookimpl, load_method\n"
        "@frozen\n"
        "class Mine(Model):\n"
        "    def build(self, task):\n"
        "        return load_method('model.conv4')(width=4, blocks=2).build(task)\n"
        "@hookimpl\n"
        "def learnforge_models():\n"
        "    return {'mine': Mine}\n"
    )
    conv4 = {"use": "conv4", "width": 4, "blocks": 2}
    messages = []
    for student in (conv4, {"use": "mine"}):
        stage = {
            "kind": "distill",
            "use": "fitnet",
            "options": {"pairs": {"stage 1": "stage 9"}},
            "teacher": conv4,
            "teacher_train": {"epochs": 1},
            "student": student,
        }
        plugins = Plugins(PluginChoice(files=[file]))
        recipe = parse_recipe({"task": {"use": "digits", "classes": [0, 1]}, "stage": [stage]}, plugins)
        with pytest.raises(RecipeError) as caught:
            check_recipe(recipe, plugins, Tasks())
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "stage.distill.options: Sequential has no 'stage 9': it has 3." in messages[0]


@pytest.mark.parametrize("compile_", [lambda n: torch.compile(n, backend="aot_eager"), lambda n: n])
def test_hints_work_on_modules_of_ones_own(
    task: Task, make_context: MakeContext, compile_: Callable[[nn.Module], nn.Module]
) -> None:
    """Teacher and student of the caller's own, compiled or not, are wired by name and by stage."""
    torch.manual_seed(0)
    networks = [compile_(Convolutional(width)) for width in (8, 4)]
    inputs = {
        role: from_module(n, task.info) for role, n in zip(("teacher", "student"), networks, strict=True)
    }
    fitnet = load_method("distiller.fitnet")(pairs={"features.0": "stage 1"})
    artifact = distil(fitnet, baseline=False).run(task, inputs, make_context(None))
    assert len(artifact.metrics["history"]["student"]) == 2
    assert set(artifact.weights or {}) == set(inputs["student"].weights or {})
    torch.compiler.reset()


def test_hints_work_on_torchvisions_models(make_context: MakeContext) -> None:
    """A MobileNetV3 of torchvision's learns from a ResNet of its own, by stages."""
    task = make_task(count=20, size=32)
    names = {"teacher": "resnet18", "student": "mobilenet_v3_small"}
    inputs = {
        role: Artifact(NetworkSpec("model", {"use": "torchvision", "name": name}), task.info)
        for role, name in names.items()
    }
    stage = distil(load_method("distiller.attention")(), train=Train(epochs=1, batch_size=10), baseline=False)
    artifact = stage.run(task, inputs, make_context(None))
    assert len(artifact.metrics["history"]["student"]) == 1


def test_a_searcher_picks_the_student(
    task: Task, models: dict[str, Artifact], make_context: MakeContext, tmp_path: Path, plugins: Plugins
) -> None:
    """Trials distil designs within the limits, share the teacher's scores, and never see the test split."""
    space = plugins.load("space", "residual")(stages=1, blocks=2, max_width=64)
    search = StudentSearch(
        space=space,
        searcher=plugins.load("searcher", "random")(),
        trials=3,
        limits={"parameters": 30_000},
        train=Train(epochs=1, batch_size=20, crop=1),
    )
    stage = distil(
        Soft(),
        student=search,
        teacher_train=Train(epochs=1),
        train=Train(epochs=2, batch_size=20, crop=1),
        baseline=False,
        cache="views",
    )
    known = {"teacher": models["teacher"]}
    assert stage.check(task, known, Plugins()) == []
    heard: list[Any] = []

    def listen(event: str, metrics: Any = None, **data: Any) -> None:
        if event == "epoch_finished":
            heard.append(metrics["part"])

    artifact = stage.run(task, known, make_context(cache_folder=tmp_path / "cache", emit=listen))
    assert heard == ["teacher", "student", "student"]  # once for all trials, which nobody hears of
    told = artifact.metrics["searched"]
    judged = [r for r in told["history"] if r["state"] == "evaluated"]
    assert len(judged) == 3
    assert all(r["metrics"]["parameters"] <= 30_000 for r in judged)
    assert artifact.spec.design == told["design"]
    best = max(judged, key=lambda r: r["metrics"]["accuracy"])
    assert best["design"] == told["design"]
    assert len(artifact.metrics["history"]["student"]) == 2
    assert len(list((tmp_path / "cache" / "teachers").glob("*/about.json"))) == 1
    assert (tmp_path / "student.db").exists()
    unseen = evolve(task, test=evolve(task.test, images=task.test.images * 0))  # type: ignore[attr-defined]
    again = stage.run(unseen, known, make_context(None))
    others = [r for r in again.metrics["searched"]["history"] if r["state"] == "evaluated"]
    assert [r["metrics"] for r in others] == [r["metrics"] for r in judged]


def test_what_is_wrong_with_a_student_search_is_told(
    task: Task, models: dict[str, Artifact], plugins: Plugins
) -> None:
    """Unknown objectives and limits have their place under `student.search`."""
    search = StudentSearch(
        space=plugins.load("space", "residual")(),
        searcher=plugins.load("searcher", "random")(),
        objectives=("speed",),
        limits={"weight": 3.0},
    )
    problems = distil(Soft(), student=search).check(task, {"teacher": models["teacher"]}, Plugins())
    assert [p.path for p in problems] == ["student.search.objectives", "student.search.limits.weight"]


def test_no_pass_of_a_stage_holds_more_images_than_it_may(
    task: Task, inputs: dict[str, Artifact], make_context: MakeContext
) -> None:
    """`train.eval_batch_size` holds for validation, test, teacher, baseline and their agreement."""
    seen: list[int] = []

    def watch(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if not module.training:
            seen.append(len(arguments[0]))

    handles = [nn.modules.module.register_module_forward_pre_hook(watch)]
    try:
        distil(Soft(), train=Train(epochs=1, batch_size=4, eval_batch_size=5)).run(
            task, inputs, make_context(None)
        )
    finally:
        for handle in handles:
            handle.remove()
    assert max(seen) == 5


def test_a_batch_larger_than_the_task_is_padded_to_no_more_than_it(
    task: Task, inputs: dict[str, Artifact], make_context: Callable[..., Context]
) -> None:
    """The teacher sees full batches, and the largest is all that there is."""
    alone = distil(Soft(), train=evolve(QUICK, batch_size=len(task.train)), baseline=False)
    vast = evolve(alone, train=evolve(alone.train, batch_size=128_000_000))
    first, second = (stage.run(task, inputs, make_context(None)) for stage in (alone, vast))
    assert first.weights is not None
    assert second.weights is not None
    assert all(torch.equal(tensor, second.weights[name]) for name, tensor in first.weights.items())


SEARCH = {
    "kind": "search",
    "use": "random",
    "space": {"use": "residual", "stages": 1, "blocks": 1, "max_width": 16},
    "train": {"epochs": 1},
}


@pytest.mark.parametrize(
    ("stage", "path", "words"),
    [
        (
            {"kind": "distill", "use": ["kd", "crd"], "cache": "views", "student": {"use": "conv4"}},
            "options",
            "the teacher cache holds class scores alone",
        ),
        (
            {"kind": "distill", "use": "fitnet", "options": {"pairs": {"nowhere": "stage 1"}}}
            | {"student": {"use": "conv4"}},
            "options",
            "no layer 'nowhere'",
        ),
        (
            {"kind": "transfer", "use": "tent", "task": {"use": "digits", "classes": [6, 8]}},
            "from",
            "must have the classes that the network knows",
        ),
    ],
    ids=["cache", "layer", "classes"],
)
def test_what_no_design_of_a_search_can_mend_is_found_before_it(
    stage: dict[str, Any], path: str, words: str, plugins: Plugins
) -> None:
    """A network that is still to be found is judged by a few examples of its space."""
    recipe = {
        "run": {"name": "early", "device": "cpu"},
        "task": {"use": "digits", "classes": [0, 1, 2]},
        "stage": [SEARCH, stage],
    }
    with pytest.raises(RecipeError) as caught:
        check_recipe(parse_recipe(recipe, plugins, "recipe"), plugins, Tasks())
    (problem,) = caught.value.problems
    assert problem.path == f"stage.{stage['kind']}.{path}"
    assert words in problem.message


def test_sizes_of_networks_that_are_still_to_be_found_refuse_nothing(plugins: Plugins) -> None:
    """A search's limits may keep its designs small, so examples say nothing of assistants between them."""
    recipe = {
        "run": {"name": "early", "device": "cpu"},
        "task": {"use": "digits", "classes": [0, 1, 2]},
        "stage": [
            {**SEARCH, "space": {"use": "residual", "max_width": 256}, "limits": {"parameters": 5000}},
            {
                "kind": "distill",
                "use": "kd",
                "teacher": {"use": "conv4"},
                "teacher_train": {"epochs": 1},
                "student": "search",
                "assistants": 1,
            },
        ],
    }
    check_recipe(parse_recipe(recipe, plugins, "recipe"), plugins, Tasks())
