"""Transfer: what is frozen stays, what is trained is trained once, and what is handed on loads again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, field, frozen
from torch import Tensor, nn

from learnforge import (
    Artifact,
    Batch,
    Context,
    DirectTransfer,
    Evidence,
    Layers,
    Outputs,
    Phase,
    PhasedTransfer,
    PluginChoice,
    Plugins,
    RecipeError,
    StageError,
    Task,
    TaskInfo,
    TaskSource,
    Validator,
)
from learnforge import context as context_module
from learnforge.artifact import from_model, from_module, load_artifact
from learnforge.changes import apply_change
from learnforge.check import Tasks, check_recipe
from learnforge.recipe import parse_recipe
from learnforge.spec import NetworkSpec, copy_weights
from learnforge_kit import MemorySplit, NewHead, Train, find_head
from learnforge_kit.training import loop as loop_module
from learnforge_plugins.optimizers.torch import SGD
from learnforge_plugins.stages.transfer import loop as transfer_loop
from learnforge_plugins.stages.transfer.freezing import freeze, set_training
from learnforge_plugins.stages.transfer.loop import share_epochs
from learnforge_plugins.stages.transfer.source import load_source, source_refusal
from learnforge_plugins.stages.transfer.stage import TransferStage

MakeContext = Callable[..., Context]
MLP = NetworkSpec("model", {"use": "mlp", "hidden": [64]})
QUICK = Train(epochs=2, batch_size=20, learning_rate=1e-2, optimizer=SGD())

MODEL = '''
from attrs import evolve, frozen
from torch import nn

from learnforge import Model, hookimpl


@frozen
class Small(Model):
    """A small network whose pretrained weights are all 0.01."""

    pretrained: bool = False

    def build(self, task):
        network = nn.Sequential()
        network.add_module("conv", nn.Conv2d(1, 4, 3, stride=2))
        network.add_module("norm", nn.BatchNorm2d(4))
        network.add_module("rest", nn.Sequential(nn.ReLU(), nn.Flatten()))
        network.add_module("head", nn.Linear(36, task.outputs))
        if self.pretrained:
            for parameter in network.parameters():
                nn.init.constant_(parameter, 0.01)
        return network

    def without_pretrained(self):
        return evolve(self, pretrained=False)


@hookimpl
def learnforge_models():
    return {"small": Small}
'''


class CutError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def small_plugins(tmp_path_factory: pytest.TempPathFactory) -> Plugins:
    """Plugins with the model `small`, loaded from a file as `--plugin` does."""
    file = tmp_path_factory.mktemp("plugin") / "small_model.py"
    file.write_text(MODEL)
    return Plugins(PluginChoice(files=(file,)))


@pytest.fixture
def context(make_context: MakeContext, small_plugins: Plugins) -> Context:
    """A context that keeps nothing and knows the model `small`."""
    return evolve(make_context(None), plugins=small_plugins)


@pytest.fixture
def old(task: Task) -> TaskInfo:
    """The task that the source was trained for, with four classes."""
    return evolve(task.info, name="old", classes=tuple("abcd"), origins=tuple(f"old:{c}" for c in "abcd"))


@pytest.fixture
def source(old: TaskInfo, small_plugins: Plugins) -> Artifact:
    """A network of the model `small` with weights and batch statistics."""
    artifact = from_model(small_plugins.load("model", "small")(), old)
    network = artifact.network(small_plugins)
    network(torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1)))
    return artifact.with_state(network)


@frozen
class Phased(PhasedTransfer):
    """A fresh head, and the given phases."""

    steps: Sequence[Phase] = (Phase({"": 1.0}),)
    watch: Callable[[Any], None] = field(default=lambda seen: None, eq=False)

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(network, NewHead(), new)

    def phases(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> Sequence[Phase]:
        return self.steps

    def loss(
        self, outputs: Outputs, batch: Batch, other: Outputs | None, other_batch: Batch | None
    ) -> Tensor:
        self.watch((outputs, batch, other, other_batch))
        return F.cross_entropy(outputs.logits, batch.labels)


def carry(method: Any, **settings: Any) -> TransferStage:
    """Make a stage."""
    return TransferStage(name="stage", method=method, **{"train": QUICK, **settings})


def network_of(outputs: int = 3) -> nn.Module:
    """Make a network with named parts."""
    network = nn.Sequential()
    network.add_module("stem", nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)))
    network.add_module("stem2", nn.Conv2d(4, 4, 1))
    network.add_module("flat", nn.Flatten())
    network.add_module("head", nn.Linear(144, outputs))
    return network


# Phases


def test_groups_hold_every_trained_parameter_once_at_the_rate_of_the_longest_prefix() -> None:
    """Rates go by the longest prefix of whole names; what no prefix fits is frozen."""
    network = network_of()
    groups = freeze(network, Phase({"stem": 0.1, "stem.1": 0.5, "head": 1.0, "stem.1.bias": 0.0}))
    rates = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert len(rates) == sum(len(group["params"]) for group in groups)
    expected = {
        "stem.0.weight": 0.1,
        "stem.0.bias": 0.1,
        "stem.1.weight": 0.5,
        "stem.2.weight": 0.1,
        "stem.2.bias": 0.1,
        "head.weight": 1.0,
        "head.bias": 1.0,
    }
    assert {n: rates[id(p)] for n, p in network.named_parameters() if id(p) in rates} == expected
    assert {name for name, p in network.named_parameters() if p.requires_grad} == set(expected)


def test_the_empty_prefix_fits_everything() -> None:
    """`""` gives every parameter a rate, and a longer prefix overrides it."""
    network = network_of()
    groups = freeze(network, Phase({"": 0.1, "head": 1.0}))
    assert {group["scale"]: len(group["params"]) for group in groups} == {0.1: 8, 1.0: 2}


def test_a_phase_that_trains_nothing_is_refused() -> None:
    """The error names the phase, its prefixes and the network's parts."""
    words = r"the phase 'late' trains nothing: no parameter starts with \['haed'\]; parts: stem, stem2, flat"
    with pytest.raises(StageError, match=words):
        freeze(network_of(), Phase({"haed": 1.0}, name="late"))


def test_training_mode_leaves_out_modules_with_frozen_parameters() -> None:
    """A frozen normalisation stays in eval mode; a module around a trained one does not stop it."""
    network = network_of()
    phase = Phase({"stem.1": 1.0, "head": 1.0})
    freeze(network, phase)
    set_training(network, phase)
    modes = {name: module.training for name, module in network.named_modules()}
    assert modes == {
        "": True,
        "stem": True,
        "stem.0": False,
        "stem.1": True,
        "stem.2": False,
        "stem2": False,
        "flat": True,
        "head": True,
    }


def test_statistics_without_parameters_are_frozen_by_name() -> None:
    """A normalisation without weights keeps its statistics where the phase does not train its part."""
    network = nn.Sequential(
        nn.BatchNorm2d(1, affine=False), nn.BatchNorm2d(1, affine=False), nn.Conv2d(1, 1, 1)
    )
    phase = Phase({"1": 1.0, "2": 1.0})
    freeze(network, phase)
    set_training(network, phase)
    assert [module.training for module in network] == [False, True, True]


def test_frozen_parts_stay_bit_for_bit(task: Task, source: Artifact, context: Context) -> None:
    """With only the head trained, weights and batch statistics of the rest do not change by a bit."""
    artifact = carry(Phased([Phase({"head": 1.0})])).run(task, {"source": source}, context)
    assert artifact.weights is not None
    assert source.weights is not None
    for name, tensor in source.weights.items():
        if not name.startswith("head"):
            assert torch.equal(tensor, artifact.weights[name]), name
    assert artifact.weights["head.weight"].shape == (3, 36)


def test_weight_decay_does_not_reach_frozen_parts(task: Task, source: Artifact, context: Context) -> None:
    """Even with weight decay and an average, frozen tensors stay."""
    train = evolve(QUICK, weight_decay=0.5, optimizer=None, ema=0.5)
    artifact = carry(Phased([Phase({"norm": 1.0, "head": 1.0})]), train=train).run(
        task, {"source": source}, context
    )
    assert artifact.weights is not None
    assert source.weights is not None
    assert torch.equal(source.weights["conv.weight"], artifact.weights["conv.weight"])
    assert not torch.equal(source.weights["norm.running_mean"], artifact.weights["norm.running_mean"])


def test_an_average_counts_no_batches_for_frozen_parts(
    task: Task, source: Artifact, context: Context
) -> None:
    """Every tensor of frozen parts stays, the counter of batches too, whatever its value."""
    train = evolve(QUICK, ema=0.9)
    for count in range(40, 60):
        weights = dict(source.weights or {}) | {"norm.num_batches_tracked": torch.tensor(count)}
        start = evolve(source, weights=weights)
        stage = carry(Phased([Phase({"head": 1.0})]), train=train, baseline=False)
        found = stage.run(task, {"source": start}, context).weights or {}
        assert all(torch.equal(found[n], weights[n]) for n in weights if not n.startswith("head"))


def test_a_rate_scales_the_step(task: Task, source: Artifact, context: Context) -> None:
    """With plain SGD and one step, a tenth of the rate moves the weights a tenth as far."""
    train = Train(epochs=1, batch_size=60, optimizer=SGD(momentum=0.0), weight_decay=0.0, learning_rate=0.1)
    assert source.weights is not None

    def moved(rate: float) -> Tensor:
        method = Phased([Phase({"": 1.0, "conv": rate})])
        weights = carry(method, train=train, baseline=False).run(task, {"source": source}, context).weights
        assert weights is not None
        assert source.weights is not None
        return weights["conv.weight"] - source.weights["conv.weight"]

    torch.testing.assert_close(moved(0.1), 0.1 * moved(1.0), rtol=1e-3, atol=1e-7)


def test_phases_that_are_too_long_are_found_by_check(plugins: Plugins) -> None:
    """Before anything runs, at the option; where lengths are searched, designs are refused instead."""
    recipe = {
        "task": {"use": "digits", "classes": [6, 8], "labels_per_class": 10},
        "stage": [
            {
                "kind": "transfer",
                "use": "fine-tune",
                "from": {"use": "conv4", "width": 4, "blocks": 1},
                "options": {"head_epochs": 32},
                "train": {"epochs": 1},
            }
        ],
    }
    with pytest.raises(RecipeError) as caught:
        check_recipe(parse_recipe(recipe, plugins), plugins, Tasks())
    (problem,) = caught.value.problems
    assert problem.path == "stage.transfer.train.epochs"
    assert "phases take 32 epochs, `train.epochs` allows 1" in str(problem)
    recipe["stage"][0] |= {
        "train": {"epochs": {"low": 1, "high": 40}},
        "tune": {"searcher": {"use": "random"}, "trials": 2},
    }  # type: ignore[index]
    check_recipe(parse_recipe(recipe, plugins), plugins, Tasks())


def test_lengths_of_phases() -> None:
    """Phases of their own length come first; the rest is shared out whole among the others."""

    def lengths(epochs: int, *phases: int | None) -> list[int]:
        steps = [Phase({"": 1.0}, length) for length in phases]
        return [train.epochs for train in share_epochs(steps, Train(epochs=epochs))]

    assert lengths(10, 3, None) == [3, 7]
    assert lengths(10, None) == [10]
    assert lengths(10, None, 2, None) == [4, 2, 4]
    with pytest.raises(StageError, match=r"phases take 5 epochs, `train\.epochs` allows 3"):
        lengths(3, 5, None)
    assert lengths(10, 4, 2) == [4, 2]
    assert lengths(2, 2, None) == [2, 0]  # all that there is was asked for
    with pytest.raises(StageError, match=r"must leave an epoch for each of 3 phases, it leaves 2"):
        lengths(3, 1, None, None, None)
    assert sum(lengths(10, None, None, 3)) == 10


def test_phases_run_in_order_and_show_in_the_history(task: Task, source: Artifact, context: Context) -> None:
    """Each phase trains its own parameters for its own time; afterwards everything may be trained again."""
    trained: list[frozenset[str]] = []
    emitted: list[str] = []

    def emit(event: str, metrics: dict[str, Any], **data: Any) -> None:
        emitted.append(metrics["part"])

    method = Phased([Phase({"head": 1.0}, 1, "head"), Phase({"": 1.0}, name="all")])
    fit = transfer_loop.fit

    def spy(trainee: Any, *rest: Any, **named: Any) -> Any:
        trained.append(frozenset(n for n, p in trainee.network.named_parameters() if p.requires_grad))
        return fit(trainee, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transfer_loop, "fit", spy)
        artifact = carry(method, train=evolve(QUICK, epochs=3), baseline=False).run(
            task, {"source": source}, evolve(context, emit=emit)
        )
    assert emitted == ["1 head", "2 all", "2 all"]
    assert trained[0] == {"head.weight", "head.bias"}
    assert trained[1] > trained[0]
    assert [entry["epoch"] for entry in artifact.metrics["history"]["transfer"]] == [1, 1, 2]


def test_a_stage_cut_off_in_its_second_phase_goes_on(
    task: Task, source: Artifact, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continued, it ends with the same bits, and the first phase is not trained again."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    phases = [Phase({"head": 1.0}, 2, "head"), Phase({"": 1.0}, 2, "all")]
    stage = evolve(carry(Phased(phases)), train=Train(epochs=4))
    expected = stage.run(task, {"source": source}, context)
    parts: list[str] = []

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        parts.append(metrics["part"])
        if len(parts) == 4:
            raise CutError

    with pytest.raises(CutError):
        stage.run(task, {"source": source}, evolve(context, folder=tmp_path, emit=stop))
    found = stage.run(task, {"source": source}, evolve(context, folder=tmp_path, emit=stop))
    assert parts == ["1 head", "1 head", "2 all", "2 all", "2 all", *["from scratch"] * 4]
    assert found.weights is not None
    assert expected.weights is not None
    assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in found.weights.items())
    assert found.metrics["history"] == expected.metrics["history"]


# Criteria and taps


class Discriminator(nn.Module):
    """A criterion with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(36, 1)

    def forward(self, outputs: Outputs, batch: Batch, other: Any, other_batch: Any) -> Tensor:
        return (
            F.cross_entropy(outputs.logits, batch.labels) + self.layer(outputs.taps["rest"]).square().mean()
        )


@frozen
class Adversarial(Phased):
    """Uses a tap and a module criterion."""

    made: list[Discriminator] = field(factory=list, eq=False)

    def taps(self, layers: Layers) -> Sequence[str]:
        return ["rest"]

    def criterion(self, network: nn.Module, outputs: Outputs, task: TaskInfo) -> Discriminator:
        assert outputs.taps["rest"].shape == (4, 36)
        torch.manual_seed(0)
        self.made.append(Discriminator())
        return self.made[-1]


def test_a_criterion_is_trained_with_taps_and_dropped(task: Task, source: Artifact, context: Context) -> None:
    """The module's parameters move, the artifact has none of them, and no hook is left."""
    method = Adversarial()
    artifact = carry(method, baseline=False).run(task, {"source": source}, context)
    torch.manual_seed(0)
    assert not torch.equal(method.made[0].layer.weight, Discriminator().layer.weight)
    assert artifact.weights is not None
    assert source.weights is not None
    assert set(artifact.weights) == set(source.weights)


# Direct strategies


@frozen
class Direct(DirectTransfer):
    """Sets every bias of the head to a number, or returns another network."""

    is_other: bool = False

    def prepare(self, network: nn.Module, old: TaskInfo, new: TaskInfo) -> nn.Module:
        return apply_change(network, NewHead(), new)

    def fit(self, network: nn.Module, task: Task, context: Context) -> nn.Module:
        head = network.get_submodule(find_head(network, task.info))
        nn.init.constant_(head.bias, 5.0)  # type: ignore[arg-type]
        return network_of() if self.is_other else network


def test_a_direct_strategy_fits_for_itself(task: Task, source: Artifact, context: Context) -> None:
    """What `fit` did is handed on and judged; there is no history but the baseline's."""
    artifact = carry(Direct()).run(task, {"source": source}, context)
    assert artifact.weights is not None
    assert artifact.weights["head.bias"].tolist() == [5.0] * 3
    assert artifact.metrics["history"]["transfer"] == []
    assert len(artifact.metrics["history"]["from scratch"]) == 2


def test_a_direct_strategy_returns_the_network_that_it_was_given(
    task: Task, source: Artifact, context: Context
) -> None:
    """Another network is refused."""
    with pytest.raises(StageError, match=r"Direct\.fit must return the network that it was given"):
        carry(Direct(is_other=True)).run(task, {"source": source}, context)


# Domain adaptation


@frozen
class Adapting(Phased):
    """Asks for companions."""

    adapts_domain: ClassVar[bool] = True
    uses_labels: ClassVar[bool] = False


@frozen
class Labelled(TaskSource):
    """Gives a task that a test made."""

    task: Task = field(eq=False, repr=False)

    def load(self) -> Task:
        return self.task


def test_a_domain_adaptation_gets_unlabelled_companions(
    task: Task, source: Artifact, context: Context
) -> None:
    """Labelled batches come from the source task, unlabelled ones from the new task, both with outputs."""
    info = evolve(task.info, name="labelled", origins=("l:0", "l:1", "l:2"))
    labelled = Task(info, task.validation, task.test, task.train)
    seen: list[Any] = []
    stage = carry(Adapting(watch=seen.append), source_task=Labelled(labelled), baseline=False)
    assert stage.check(task, {"source": source}, Plugins()) == []
    artifact = stage.run(task, {"source": source}, context)
    assert len(seen) == 6
    for outputs, batch, other, other_batch in seen:
        assert outputs.logits.shape == other.logits.shape == (20, 3)
        assert torch.equal(batch.labels, labelled.train.labels[batch.indices])
        assert other_batch.labels.tolist() == [-1] * 20
    _, batch, _, other_batch = seen[0]
    own = task.train.images[other_batch.indices].float()  # type: ignore[attr-defined]
    torch.testing.assert_close(other_batch.images * 0.25 * 255 + 0.3 * 255, own, rtol=0, atol=1e-3)
    assert artifact.provenance.origins == {*task.info.origins, "l:0", "l:1", "l:2"}


def test_a_domain_adaptation_without_a_labelled_task_is_refused(task: Task, source: Artifact) -> None:
    """`source_task` is missed before anything is computed."""
    assert [str(p) for p in carry(Adapting()).check(task, {"source": source}, Plugins())] == [
        "source_task: is missing; this method adapts from a labelled source task"
    ]


def test_a_domain_adaptation_wants_the_same_classes_and_shapes(task: Task, source: Artifact) -> None:
    """A labelled task with other classes or images is refused with both."""
    info = evolve(task.info, classes=("x", "y"), origins=("x", "y"), input_shape=(3, 8, 8))
    labelled = evolve(task, info=info)
    stage = carry(Adapting(), source_task=Labelled(labelled))
    assert [str(p) for p in stage.check(task, {"source": source}, Plugins())] == [
        "source_task: must have the new task's 3 classes, in their order, it has 2: x, y",
        "source_task: must show images of shape [1, 8, 8] as the new task does, it shows [3, 8, 8]",
    ]


def test_settings_of_domain_adaptation_are_refused_without_one(task: Task, source: Artifact) -> None:
    """A method that does not adapt a domain would ignore them."""
    stage = carry(Phased(), source_task=Labelled(task), validator=Confidence())
    assert [str(p) for p in stage.check(task, {"source": source}, Plugins())] == [
        "source_task: is for methods that need no label of the new task, which Phased does",
        "validator: is for methods that need no label of the new task, which Phased does",
    ]


@frozen
class Confidence(Validator):
    """Notes what it is shown, and prefers the second epoch."""

    seen: list[Evidence] = field(factory=list, eq=False)

    def score(self, evidence: Evidence) -> float:
        self.seen.append(evidence)
        return -abs(len(self.seen) - 2.0)


def test_a_validator_chooses_the_epoch(task: Task, source: Artifact, context: Context) -> None:
    """It sees validation images of both tasks, and `weights = "best"` keeps what it prefers."""
    labelled = Task(evolve(task.info, name="labelled"), task.validation, task.test, task.train)
    kept: dict[int, dict[str, Tensor]] = {}
    for epochs, weights in ((2, "last"), (4, "best")):
        validator = Confidence()
        train = evolve(QUICK, epochs=epochs, weights=weights, schedule="constant")
        settings = {"source_task": Labelled(labelled), "validator": validator, "train": train}
        stage = carry(Adapting(), baseline=False, **settings)
        artifact = stage.run(task, {"source": source}, context)
        assert artifact.weights is not None
        kept[epochs] = dict(artifact.weights)
        history = artifact.metrics["history"]["transfer"]
        assert [entry["validator"] for entry in history] == [-1.0, 0.0, -1.0, -2.0][:epochs]
        assert torch.equal(validator.seen[0].source_labels, task.test.labels)
        assert validator.seen[0].target.shape == (len(task.validation), 3)
    assert all(torch.equal(tensor, kept[4][name]) for name, tensor in kept[2].items())
    # what is handed on is judged as the chosen epoch was, by the statistics of both tasks
    assert torch.equal(validator.seen[-1].source, validator.seen[1].source)
    assert torch.equal(validator.seen[-1].target, validator.seen[1].target)
    assert artifact.metrics["pairs"] == [[c, c] for c in task.info.classes]


class Normalised(nn.Module):
    """A layer of batch statistics alone."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.rest = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.rest(self.norm(images))
        return scores


def test_each_domain_has_its_own_batch_statistics(task: Task, context: Context) -> None:
    """The network keeps the new task's running statistics; the labelled task is judged by its own."""
    bright = MemorySplit(task.train.images // 2 + 127, task.train.labels)  # type: ignore[attr-defined]
    labelled = Task(evolve(task.info, name="bright"), bright, bright, bright)
    validator = Confidence()
    module = Normalised()
    train = Train(epochs=12, batch_size=20, learning_rate=1e-4)
    settings = {"source_task": Labelled(labelled), "validator": validator, "train": train}
    stage = carry(Adapting(), baseline=False, **settings)
    artifact = stage.run(task, {"source": from_module(module, task.info)}, context)
    network = artifact.network().eval()
    assert isinstance(network, Normalised)
    shown = artifact.normalise(task.train.images)  # type: ignore[attr-defined]
    whole = 1 - 0.9**36  # each batch moves the mean by a tenth of the way
    torch.testing.assert_close(network.norm.running_mean, whole * shown.mean((0, 2, 3)), rtol=0.05, atol=0.02)
    assert float(artifact.normalise(bright.images).mean()) > float(shown.mean()) + 0.5
    seen = validator.seen[-1]
    with torch.no_grad():
        scores = network(artifact.normalise(bright.images)).mean(0)  # by the wrong statistics
    apart = [float((other - seen.target.mean(0)).abs().max()) for other in (seen.source.mean(0), scores)]
    assert apart[0] < 0.3 * apart[1]


@frozen
class Broken(Validator):
    """Gives no number."""

    def score(self, evidence: Evidence) -> float:
        return float("nan")


def test_a_score_that_is_no_number_is_refused(task: Task, source: Artifact, context: Context) -> None:
    """It could choose nothing."""
    settings = {"source_task": Labelled(task), "validator": Broken(), "train": QUICK}
    with pytest.raises(StageError, match="a validator's score must be finite, Broken gave nan"):
        carry(Adapting(), **settings).run(task, {"source": source}, context)


def test_without_labels_options_are_chosen_without_them(
    task: Task, source: Artifact, context: Context
) -> None:
    """A search over options goes by the validator, else by the labelled task; other labels of the new task's
    validation images change nothing.
    """
    labelled = Task(evolve(task.info, name="labelled"), task.validation, task.test, task.train)
    wrong = MemorySplit(
        task.validation.images,  # type: ignore[attr-defined]
        (task.validation.labels + 1) % 3,
    )
    for validator, key in ((None, "source_accuracy"), (Sure(), "validator")):
        settings = {"source_task": Labelled(labelled), "validator": validator, "train": QUICK}
        stage = carry(Adapting(), baseline=False, **settings)
        found = [
            stage.run(given, {"source": source}, context).metrics
            for given in (task, evolve(task, validation=wrong))
        ]
        assert stage.measured(found[0])["accuracy"] == found[0][key] == found[1][key]
        assert found[0]["validation_accuracy"] != found[1]["validation_accuracy"]


def test_ranges_without_labels_need_a_labelled_task(task: Task, source: Artifact, plugins: Plugins) -> None:
    """There would be nothing to choose by."""
    stage = evolve(carry(plugins.load("transfer", "adabn")()), ranges={"options.batch_size": None})
    assert [str(p) for p in stage.check(task, {"source": source}, Plugins())] == [
        "options.batch_size: needs a `source_task`: without labels of the new task it is judged by that one's"
    ]


@pytest.mark.parametrize("name", ["coral", "mmd", "dann", "cdan"])
def test_distances_are_in_single_precision(
    name: str, task: Task, plugins: Plugins, make_context: MakeContext
) -> None:
    """In a training with bfloat16 the criterion gets single precision, and computes in it."""
    seen: list[torch.dtype] = []
    resnet = from_model(plugins.load("model", "resnet")(depth=8), task.info)
    method = plugins.load("transfer", name)()
    train = Train(epochs=1, batch_size=20, precision="bf16")
    stage = carry(method, source_task=Labelled(task), train=train, baseline=False)
    cross_entropy = F.cross_entropy

    def spy(scores: Tensor, *given: Any, **named: Any) -> Tensor:
        seen.append(scores.dtype)
        assert not torch.is_autocast_enabled("cpu")
        return cross_entropy(scores, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "cross_entropy", spy)
        stage.run(task, {"source": resnet}, make_context(None))
    assert set(seen) == {torch.float32}


def test_a_cut_off_adaptation_goes_on_with_both_statistics(
    task: Task, source: Artifact, context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in its second epoch and continued, validator scores and weights are those of an unbroken run."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    labelled = Task(evolve(task.info, name="labelled"), task.validation, task.test, task.train)
    train = evolve(QUICK, epochs=4)

    def run(context: Context) -> Artifact:
        settings = {"source_task": Labelled(labelled), "validator": Sure(), "train": train}
        return carry(Adapting(), baseline=False, **settings).run(task, {"source": source}, context)

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["epoch"] == 3:
            raise CutError

    expected = run(context)
    with pytest.raises(CutError):
        run(evolve(context, folder=tmp_path, emit=stop))
    found = run(evolve(context, folder=tmp_path))
    assert found.metrics["history"] == expected.metrics["history"]
    assert found.content == expected.content


@frozen
class Sure(Validator):
    """How sure the network is of images of both tasks."""

    def score(self, evidence: Evidence) -> float:
        return float(evidence.source.softmax(1).amax(1).mean() + evidence.target.softmax(1).amax(1).mean())


# Other images


@pytest.mark.parametrize("channels", [1, 3])
def test_another_number_of_channels_is_averaged(
    channels: int, task: Task, plugins: Plugins, make_context: MakeContext
) -> None:
    """The first convolution's sum over channels is kept, all else bit for bit; it is reported."""
    names = tuple("abcd")
    given = evolve(task.info, classes=names, origins=names, input_shape=(4 - channels, 8, 8))
    model = from_model(plugins.load("model", "resnet")(depth=8), given)
    artifact = model.with_state(model.network(plugins))
    shown = evolve(task.info, input_shape=(channels, 8, 8))
    for source in (artifact, from_module(artifact.network(plugins), given)):
        assert source_refusal(source, shown, Plugins()) == ""
        network, changes = load_source(source, shown, make_context(None))
        before, after = artifact.weights, network.state_dict()
        assert before is not None
        (stem,) = [name for name in before if before[name].shape != after[name].shape]
        assert after[stem].shape[1] == channels
        torch.testing.assert_close(after[stem].sum(1), before[stem].sum(1))
        assert all(torch.equal(after[n], before[n]) for n in before if n != stem)
        assert changes == [f"{4 - channels} → {channels} channels: first convolution averaged"]


def test_weights_that_depend_on_the_extent_are_refused(
    task: Task, source: Artifact, context: Context
) -> None:
    """A head behind a flattened map takes no larger image; the check says which tensor, before training."""
    large = evolve(task.info, input_shape=(1, 12, 12))
    enlarged = evolve(task, info=large)
    (problem,) = carry(Phased()).check(enlarged, {"source": evolve(source, spec=MLP)}, Plugins())
    assert str(problem) == (
        "from: must take images of shape [1, 12, 12] as the task has; it was made for [1, 8, 8] and cannot "
        "be carried over: weights depend on height and width: 1.weight is [64, 64], the network wants "
        "[64, 144]"
    )


def test_larger_images_are_taken_by_networks_that_average(
    task: Task, plugins: Plugins, make_context: MakeContext
) -> None:
    """A network that ends in global averaging keeps its weights for larger images."""
    resnet = from_model(plugins.load("model", "resnet")(depth=8), task.info)
    resnet = resnet.with_state(resnet.network(plugins))
    large = evolve(task.info, input_shape=(1, 12, 12))
    assert source_refusal(resnet, large, Plugins()) == ""
    network, changes = load_source(resnet, large, make_context(None))
    assert changes == ["images 8 × 8 → 12 × 12"]
    assert resnet.weights is not None
    assert all(torch.equal(tensor, resnet.weights[name]) for name, tensor in network.state_dict().items())


# What is handed on


@frozen
class Unfinished(Phased):
    """Leaves a layer behind that the model does not have."""

    def finish(self, network: nn.Module) -> nn.Module:
        network.add_module("scale", nn.LayerNorm(3))
        return network


def test_a_finished_network_must_fit_its_model(task: Task, source: Artifact, context: Context) -> None:
    """An artifact that could not be loaded again is refused before the training, tensor by tensor."""
    with pytest.raises(StageError, match=r"Unfinished makes a network that .*: unexpected scale\.weight"):
        carry(Unfinished()).run(task, {"source": source}, context)


def test_the_artifact_loads_again_and_scores_the_same(
    task: Task, source: Artifact, context: Context, small_plugins: Plugins
) -> None:
    """Built from its model, for the new task, the network gives the reported accuracy."""
    train = evolve(QUICK, epochs=6)
    artifact = carry(Phased(), train=train).run(task, {"source": source}, context)
    scores = artifact.predict(task.test.images, small_plugins)  # type: ignore[attr-defined]
    assert artifact.metrics["test_accuracy"] == float((scores.argmax(1) == task.test.labels).double().mean())
    assert artifact.task == task.info
    assert artifact.provenance.origins == set(task.info.origins)


def test_the_baseline_starts_from_fresh_weights(
    task: Task,
    old: TaskInfo,
    context: Context,
    small_plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The strategy starts from pretrained weights; the baseline has the same budget and none of them."""
    starts: dict[str, dict[str, Tensor]] = {}
    budgets: list[Train] = []
    fit = transfer_loop.fit

    def spy(
        trainee: Any, split: Any, info: Any, train: Train, context: Any, part: str, *rest: Any, **named: Any
    ) -> Any:
        starts[part] = copy_weights(trainee.network)
        budgets.append(train)
        return fit(trainee, split, info, train, context, part, *rest, **named)

    for module in (transfer_loop, loop_module):
        monkeypatch.setattr(module, "fit", spy)
    pretrained = from_model(small_plugins.load("model", "small")(pretrained=True), old)
    artifact = carry(Phased()).run(task, {"source": pretrained}, context)
    assert starts["transfer"]["conv.weight"].eq(0.01).all()
    assert not starts["from scratch"]["conv.weight"].eq(0.01).any()
    assert starts["from scratch"]["head.weight"].shape == (3, 36)
    assert budgets == [QUICK, QUICK]
    assert {"baseline_test_accuracy", "baseline_validation_accuracy"} <= set(artifact.metrics)


def test_a_module_of_ones_own_serves_as_source(task: Task, old: TaskInfo, context: Context) -> None:
    """A bare module is carried over, itself left as it is, and has no baseline."""
    module = network_of(4)
    before = copy_weights(module)
    artifact = carry(Phased()).run(task, {"source": from_module(module, old)}, context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert artifact.predict(task.test.images).shape == (60, 3)  # type: ignore[attr-defined]
    assert "baseline_test_accuracy" not in artifact.metrics
    assert set(artifact.metrics["history"]) == {"transfer"}


# Small terms


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("name", ["fine-tune", "lora"])
def test_small_batches(
    name: str, batch_size: int, task: Task, plugins: Plugins, make_context: MakeContext
) -> None:
    """Four images a class and batches down to one image, with batch statistics on maps of one pixel."""
    few = evolve(task, train=task.train.select(torch.arange(12)))
    module = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))
    stage = carry(plugins.load("transfer", name)(), train=Train(epochs=2, batch_size=batch_size))
    artifact = stage.run(few, {"source": from_module(module, task.info)}, make_context(None))
    assert all(bool(t.isfinite().all()) for t in (artifact.weights or {}).values())
    assert len(artifact.metrics["history"]["transfer"]) == 2


@pytest.mark.parametrize("name", ["fine-tune", "linear-probe"])
def test_a_thousand_classes(name: str, plugins: Plugins, make_context: MakeContext) -> None:
    """Metrics stay small: accuracies by class and the most frequent mistakes, no million confusions."""
    generator = torch.Generator().manual_seed(0)
    names = tuple(map(str, range(1000)))
    info = TaskInfo("many", names, names, (1, 8, 8), (0.5,), (0.25,))
    pixels = torch.randint(0, 256, (1000, 1, 8, 8), generator=generator, dtype=torch.uint8)
    split = MemorySplit(pixels, torch.arange(1000))
    many = Task(info, split, split.select(torch.arange(100)), split.select(torch.arange(200)))
    old = evolve(info, classes=names[:5], origins=names[:5])
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 5))
    options = {"strength": 0.1, "classifier": "ridge"} if name == "linear-probe" else {}
    stage = carry(plugins.load("transfer", name)(**options), train=Train(epochs=1), baseline=False)
    metrics = stage.run(many, {"source": from_module(module, old)}, make_context(None)).metrics
    assert len(metrics["class_accuracy"]) == 1000
    assert "confusion" not in metrics
    assert len(metrics["mistakes"]) == 20


def test_balanced_training_finds_a_rare_class(
    task: Task, plugins: Plugins, make_context: MakeContext
) -> None:
    """With two images of one class among eighty, showing classes equally often finds more of it."""
    labels = task.train.labels
    rare = torch.cat([(labels == 0).nonzero()[:2, 0], (labels > 0).nonzero()[:, 0]])
    skewed = evolve(task, train=task.train.select(rare))
    found = {}
    for balanced in (False, True):
        torch.manual_seed(0)
        train = Train(epochs=4, batch_size=20, learning_rate=1e-2, balanced=balanced)
        stage = carry(plugins.load("transfer", "fine-tune")(), train=train)
        source = from_module(network_of(), task.info)
        metrics = stage.run(skewed, {"source": source}, make_context(None)).metrics
        found[balanced] = metrics["class_accuracy"][0]
    assert found[True] > found[False]


# A network that ends at one of its layers


def test_a_probe_of_a_layer_is_an_artifact_that_ends_there(
    task: Task, source: Artifact, context: Context, small_plugins: Plugins, tmp_path: Path
) -> None:
    """It is saved, loads again and scores the same without what came after the layer; fine-tuning goes on
    from it.
    """
    probe = carry(small_plugins.load("transfer", "linear-probe")(features="norm"))
    artifact = probe.run(task, {"source": source}, context)
    assert artifact.spec.changes == ({"use": "cut", "layer": "norm"},)
    assert artifact.metrics["changes"][0] == "ends at norm: 63 of 196 parameters"
    artifact.save(tmp_path)
    loaded = load_artifact(tmp_path)
    assert set(loaded.weights or {}) >= {"body.conv.weight", "body.norm.running_mean", "head.weight"}
    scores = loaded.predict(task.test.images, small_plugins)  # type: ignore[attr-defined]
    assert artifact.metrics["test_accuracy"] == float((scores.argmax(1) == task.test.labels).double().mean())
    tuned = carry(small_plugins.load("transfer", "fine-tune")()).run(task, {"source": loaded}, context)
    assert tuned.spec == artifact.spec
    assert not any("ends at" in change for change in tuned.metrics["changes"])


def test_a_probe_of_a_resolution_ends_at_its_last_layer(
    task: Task, source: Artifact, context: Context, small_plugins: Plugins
) -> None:
    """`stage 1` is the last layer of the first resolution."""
    probe = carry(small_plugins.load("transfer", "linear-probe")(features="stage 1"), baseline=False)
    found = probe.run(task, {"source": source}, context).spec.changes
    assert found == ({"use": "cut", "layer": "rest.0"},)
    missing = carry(small_plugins.load("transfer", "linear-probe")(features="stage 4"), baseline=False)
    with pytest.raises(StageError, match="has no 'stage 4': it has 1"):
        missing.run(task, {"source": source}, context)
