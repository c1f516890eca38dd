"""Fine-tuning: which parameters move, for how long, and at which rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from learnforge import Artifact, Context, Outputs, Plugins, RecipeError, StageError, Task
from learnforge import context as context_module
from learnforge.artifact import from_module
from learnforge.options.structure import build
from learnforge_kit import Train
from learnforge_plugins.stages.transfer.freezing import freeze, set_training
from learnforge_plugins.stages.transfer.stage import TransferStage


@pytest.fixture
def carry(plugins: Plugins, net: Any, task: Task, make_context: Callable[..., Context]) -> Any:
    """Fine-tune a small network from seven classes to the task's three; return the artifact and the old
    weights.
    """

    def run(epochs: int = 2, **options: Any) -> tuple[Artifact, dict[str, Tensor]]:
        network = net(7)
        before = {name: t.clone() for name, t in network.state_dict().items()}
        names = tuple(map(str, range(7)))
        old = attrs.evolve(task.info, classes=names, origins=names)
        method = build(plugins.load("transfer", "fine-tune"), options, "test")
        stage = TransferStage(
            name="transfer", method=method, train=Train(epochs=epochs, batch_size=20), baseline=False
        )
        return stage.run(task, {"source": from_module(network, old)}, make_context(None)), before

    return run


def _moved(artifact: Artifact, before: dict[str, Tensor]) -> set[str]:
    after = artifact.network().state_dict()
    return {
        name for name in before if name.startswith("body.") and not torch.equal(after[name], before[name])
    }


def test_head_is_replaced(carry: Any, task: Task) -> None:
    """The old head of 7 classes gives way to one of 3, and the artifact is of the new task."""
    artifact, _ = carry()
    assert artifact.network().head.out_features == 3
    assert artifact.spec.changes == ({"use": "head"},)
    assert artifact.module.head.out_features == 7
    assert artifact.task == task.info


def test_body_starts_from_the_old_weights(carry: Any) -> None:
    """Without any epoch the old layers are bit for bit those of the source."""
    artifact, before = carry(epochs=0)
    assert _moved(artifact, before) == set()


def test_everything_is_trained_by_default(carry: Any) -> None:
    """By default every old layer moves, batch statistics included."""
    artifact, before = carry()
    assert _moved(artifact, before) == {name for name in before if name.startswith("body.")}


def test_backbone_rate_zero_freezes_the_backbone(carry: Any) -> None:
    """With `backbone_rate = 0` neither weights nor batch statistics of the old layers change; the head
    learns.
    """
    artifact, before = carry(backbone_rate=0.0)
    fresh, _ = carry(epochs=0, backbone_rate=0.0)
    assert _moved(artifact, before) == set()
    assert not torch.equal(artifact.network().head.weight, fresh.module.head.weight)


def test_head_epochs_train_the_head_alone(carry: Any) -> None:
    """While the head is trained alone, the old layers stay; when its epochs are all there are, they end
    unchanged.
    """
    artifact, before = carry(epochs=2, head_epochs=2)
    assert _moved(artifact, before) == set()
    artifact, before = carry(epochs=3, head_epochs=2)
    assert "body.0.weight" in _moved(artifact, before)


def test_head_epochs_count_towards_all_epochs(
    plugins: Plugins, net: Any, task: Task, make_context: Callable[..., Context]
) -> None:
    """The head's epochs are a part of `train.epochs`; both phases name themselves as they go."""
    parts: list[str] = []

    def note(event: str, **data: Any) -> None:
        parts.append(data["metrics"]["part"])

    method = build(plugins.load("transfer", "fine-tune"), {"head_epochs": 2}, "test")
    stage = TransferStage(name="transfer", method=method, train=Train(epochs=3), baseline=False)
    stage.run(task, {"source": from_module(net(3), task.info)}, make_context(None, emit=note))
    assert parts == ["1 head", "1 head", "2 fine-tune"]


def test_rates_are_factors_for_each_part(plugins: Plugins, net: Any, task: Task) -> None:
    """The old layers' rate is `backbone_rate`, the head's `head_rate`, each parameter in one group."""
    method = build(plugins.load("transfer", "fine-tune"), {"backbone_rate": 0.1, "head_rate": 2.0}, "test")
    network = net(3)
    (phase,) = method.phases(network, task.info, task.info)
    rates = {id(p): group["scale"] for group in freeze(network, phase) for p in group["params"]}
    assert {name: rates[id(p)] for name, p in network.named_parameters()} == {
        name: 2.0 if name.startswith("head.") else 0.1 for name, _ in network.named_parameters()
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_epochs": -1}, r"head_epochs: 'head_epochs' must be >= 0: -1"),
        ({"backbone_rate": -0.5}, r"backbone_rate: 'backbone_rate' must be >= 0\.0"),
        ({"head_rate": 0.0}, r"head_rate: 'head_rate' must be > 0\.0: 0\.0"),
        ({"l2_sp_head": 0.1}, r"l2_sp_head is a part of l2_sp, which must be above 0, got 0\.0"),
    ],
)
def test_wrong_options_are_refused(plugins: Plugins, options: dict[str, Any], message: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=message):
        build(plugins.load("transfer", "fine-tune"), options, "test")


# Parts


class _Deep(nn.Module):
    """Four blocks of 2, 4, 8 and 16 parameters, and a head of 32."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"a": 2, "b": 4, "c": 8, "d": 16}
        self.blocks = nn.Sequential()
        for name, size in sizes.items():
            self.blocks.add_module(name, nn.Linear(1, size, bias=False))
        self.head = nn.Linear(16, 2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        first = images.flatten(1)[:, :1]
        total = sum(block(first).sum(1, keepdim=True) for block in self.blocks)
        scores: Tensor = self.head(total.expand(-1, 16))
        return scores


@pytest.fixture
def rates(make: Any, task: Task) -> Any:
    """Return the rates of each phase of a network of four blocks."""
    two = attrs.evolve(task.info, classes=("x", "y"), origins=("x", "y"))

    def plan(**options: Any) -> list[tuple[str, dict[str, float]]]:
        phases = make("fine-tune", **options).phases(_Deep(), two, two)
        return [
            (phase.name, {name.removeprefix("blocks."): rate for name, rate in phase.rates.items()})
            for phase in phases
        ]

    return plan


def test_rates_decay_from_the_head_to_the_input(rates: Any) -> None:
    """Each block has `layer_decay` times the rate of the one behind it; the head's is its own."""
    ((name, found),) = rates(layer_decay=0.5, backbone_rate=0.8, head_rate=2.0)
    assert name == "fine-tune"
    assert found == pytest.approx({"a": 0.05, "b": 0.1, "c": 0.2, "d": 0.4, "head": 2.0})


def test_blocks_are_unfrozen_one_after_the_other(rates: Any) -> None:
    """First the head, then the last blocks with it, in as many steps as asked for, at last all."""
    found = rates(unfreeze=2, head_epochs=1)
    assert [(name, list(part)) for name, part in found] == [
        ("head", ["head"]),
        ("unfreeze 1", ["c", "d", "head"]),
        ("unfreeze 2", ["a", "b", "c", "d", "head"]),
    ]
    assert [list(part) for _, part in rates(unfreeze=9)] == [
        ["head"],
        ["d", "head"],
        ["c", "d", "head"],
        ["b", "c", "d", "head"],
        ["a", "b", "c", "d", "head"],
    ]


def test_first_blocks_stay_by_number(rates: Any) -> None:
    """`freeze_blocks` counts from the input."""
    assert [list(part) for _, part in rates(freeze_blocks=3)] == [["d", "head"]]


def test_a_share_trains_the_last_blocks_that_it_allows(rates: Any) -> None:
    """Of 62 parameters, 56 are 32 of the head, 16 and 8; one less leaves out the third block."""
    assert list(rates(train_share=56 / 62)[0][1]) == ["c", "d", "head"]
    assert list(rates(train_share=55 / 62)[0][1]) == ["d", "head"]
    assert list(rates(train_share=32 / 62)[0][1]) == ["head"]
    assert list(rates(train_share=1.0)[0][1]) == ["a", "b", "c", "d", "head"]
    with pytest.raises(
        StageError, match=r"at least 0\.516, the share of the head \(head\) alone; it is 0\.5"
    ):
        rates(train_share=0.5)


def test_parts_stay_by_name(carry: Any) -> None:
    """A named part keeps weights and batch statistics bit for bit, while the rest moves."""
    artifact, before = carry(freeze=["body.1"])
    assert _moved(artifact, before) == {"body.0.weight", "body.0.bias"}
    artifact, before = carry(freeze=["body.0.bias"])
    assert "body.0.bias" not in _moved(artifact, before)
    assert "body.0.weight" in _moved(artifact, before)


def test_containers_of_blocks_stay_by_name(rates: Any, carry: Any) -> None:
    """A name stands for all that is inside; statistics without weights belong to a block as well."""
    assert rates(freeze=["blocks"])[0][1] == {"head": 1.0, "blocks": 0.0}
    artifact, before = carry(freeze=["body"])
    assert _moved(artifact, before) == set()


def test_batch_statistics_without_weights_are_trained_too(make: Any, task: Task) -> None:
    """A normalisation without weights is in training mode where everything is trained."""
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, affine=False), nn.Flatten(), nn.Linear(72, 3)
    )
    (phase,) = make("fine-tune").phases(network, task.info, task.info)
    freeze(network, phase)
    set_training(network, phase)
    assert network[1].training


def test_unknown_parts_and_a_frozen_head_are_refused(rates: Any) -> None:
    """The error lists the blocks."""
    with pytest.raises(StageError, match=r"\['e'\] are none; its blocks: blocks\.a, .*blocks\.d, head"):
        rates(freeze=["e"])
    for options in ({"freeze": ["head"]}, {"freeze_blocks": 5}):
        with pytest.raises(StageError, match=r"the new head \(head\) must be trained, but it is frozen"):
            rates(**options)


# The pull towards the starting point


def test_pull_by_hand(make: Any, net: Any, task: Task, batch_of: Any) -> None:
    """Old weights that moved by 2 in one place, and the head's size, each by half its strength."""
    network = net(3)
    outputs, batch = Outputs(torch.zeros(2, 3)), batch_of([0, 1])
    method = make("fine-tune", l2_sp=0.1, l2_sp_head=0.01)
    criterion = method.criterion(network, outputs, task.info)
    start = float(criterion(outputs, batch, None, None).detach())
    head = sum(float(p.detach().square().sum()) for p in network.head.parameters())
    assert start == pytest.approx(math.log(3) + 0.005 * head, rel=1e-5)
    with torch.no_grad():
        network.body[0].weight[0, 0, 0, 0] += 2.0
    found = float(criterion(outputs, batch, None, None).detach())
    assert found - start == pytest.approx(0.05 * 4, rel=1e-4)
    assert list(criterion.parameters()) == []


def test_a_strong_pull_holds_the_old_weights(carry: Any) -> None:
    """The stronger the pull, the closer the old layers stay to where they came from."""

    def moved(strength: float) -> float:
        artifact, before = carry(epochs=5, l2_sp=strength)
        weights = artifact.weights or {}
        names = [name for name in before if name.startswith("body.") and name.endswith("weight")]
        return float(sum((weights[n] - before[n]).square().sum() for n in names))

    free, held, tight = moved(0.0), moved(1.0), moved(100.0)
    assert free > held > tight


def test_a_cut_off_pull_goes_on_to_the_same_point(
    make: Any, net: Any, task: Task, make_context: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The starting point is checkpointed: continued in the second phase, the weights are the same bits."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    method = make("fine-tune", head_epochs=1, l2_sp=1.0)
    stage = TransferStage(name="t", method=method, train=Train(epochs=4, batch_size=20), baseline=False)

    def run(context: Context) -> Artifact:
        return stage.run(task, {"source": from_module(net(3), task.info)}, context)

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["part"] == "2 fine-tune" and metrics["epoch"] == 2:
            raise InterruptedError

    whole = run(make_context(None)).content
    with pytest.raises(InterruptedError):
        run(make_context(tmp_path, emit=stop))
    assert run(make_context(tmp_path)).content == whole
