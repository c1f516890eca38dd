"""Fine-tuning: which parameters move, for how long, and at which rates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor, nn

from learnforge import Artifact, Context, Plugins, RecipeError, Task, Train
from learnforge.artifact import from_module
from learnforge.options import build
from learnforge.stages.transfer import TransferStage, freeze


class _Net(nn.Module):
    def __init__(self, outputs: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.head = nn.Linear(16, outputs)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.head(self.body(images).flatten(1))
        return scores


@pytest.fixture
def carry(plugins: Plugins, task: Task, make_context: Callable[..., Context]) -> Any:
    """Fine-tune a small network from seven classes to the task's three; return the artifact and the old
    weights.
    """

    def run(epochs: int = 2, **options: Any) -> tuple[Artifact, dict[str, Tensor]]:
        torch.manual_seed(0)
        network = _Net(7)
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
    assert artifact.module is not None
    after = artifact.module.state_dict()
    return {
        name for name in before if name.startswith("body.") and not torch.equal(after[name], before[name])
    }


def test_head_is_replaced(carry: Any, task: Task) -> None:
    """The old head of 7 classes gives way to one of 3, and the artifact is of the new task."""
    artifact, _ = carry()
    assert artifact.module.head.out_features == 3
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
    assert not torch.equal(artifact.module.head.weight, fresh.module.head.weight)


def test_head_epochs_train_the_head_alone(carry: Any) -> None:
    """While the head is trained alone, the old layers stay; when its epochs are all there are, they end
    unchanged.
    """
    artifact, before = carry(epochs=2, head_epochs=2)
    assert _moved(artifact, before) == set()
    artifact, before = carry(epochs=3, head_epochs=2)
    assert "body.0.weight" in _moved(artifact, before)


def test_head_epochs_count_towards_all_epochs(
    plugins: Plugins, task: Task, make_context: Callable[..., Context]
) -> None:
    """The head's epochs are a part of `train.epochs`; both phases name themselves as they go."""
    parts: list[str] = []

    def note(event: str, **data: Any) -> None:
        parts.append(data["metrics"]["part"])

    method = build(plugins.load("transfer", "fine-tune"), {"head_epochs": 2}, "test")
    stage = TransferStage(name="transfer", method=method, train=Train(epochs=3), baseline=False)
    stage.run(task, {"source": from_module(_Net(3), task.info)}, make_context(None, emit=note))
    assert parts == ["1 head", "1 head", "2 fine-tune"]


def test_rates_are_factors_for_each_part(plugins: Plugins, task: Task) -> None:
    """The old layers' rate is `backbone_rate`, the head's `head_rate`, each parameter in one group."""
    method = build(plugins.load("transfer", "fine-tune"), {"backbone_rate": 0.1, "head_rate": 2.0}, "test")
    network = _Net(3)
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
    ],
)
def test_wrong_options_are_refused(plugins: Plugins, options: dict[str, Any], message: str) -> None:
    """Options out of range are refused with their bound."""
    with pytest.raises(RecipeError, match=message):
        build(plugins.load("transfer", "fine-tune"), options, "test")
