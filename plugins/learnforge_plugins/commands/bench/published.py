"""Published results, to stand beside one's own.

Those of distillation are of CIFAR-100, all with SGD (momentum 0.9, weight decay 5e-4), batches of 64, 240
epochs, learning rate 0.05, a tenth of it from epochs 150, 180 and 210 on, T = 4 for `kd`; last-epoch test
accuracy, mean over several seeds.

Reference:
    Tian, Krishnan & Isola, Contrastive representation distillation, 2019, table 1. arXiv:1910.10699
    Zhao, Cui, Song, Qiu & Liang, Decoupled knowledge distillation, 2022, for
    `dkd`. arXiv:2203.08679

Those of few-shot learning are of Omniglot, 1,200 characters in four rotations to learn and to validate from,
and of five points of sine waves, squared errors after so many steps.

Reference:
    Finn, Abbeel & Levine, Model-agnostic meta-learning for fast adaptation of deep networks, 2017, tables 1
    and 2. arXiv:1703.03400
    Nichol, Achiam & Schulman, On first-order meta-learning algorithms, 2018, table 2. arXiv:1803.02999
    Snell, Swersky & Zemel, Prototypical networks for few-shot learning, 2017, table 1. arXiv:1703.05175
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from learnforge.kinds.task import TaskSource
from learnforge.options.structure import plain
from learnforge.plugins.identity import identify, spell
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.meta.stage import MetaStage

_METHODS = ("baseline", "kd", "fitnet", "attention", "rkd", "crd", "dkd")


_ACCURACIES: Mapping[tuple[str, str], Sequence[float]] = {
    ("resnet 32×4", "resnet 8×4"): (72.50, 73.33, 73.50, 73.44, 71.90, 75.51, 76.32),
    ("resnet 56×1", "resnet 20×1"): (69.06, 70.66, 69.21, 70.55, 69.61, 71.16, 71.97),
    ("resnet 110×1", "resnet 32×1"): (71.14, 73.08, 71.06, 72.31, 71.82, 73.48, 74.11),
}
"""{(teacher, student): test accuracy in per cent of each of the methods}."""

_TRAINING: Mapping[str, Any] = {
    "optimizer": {"use": "sgd", "momentum": 0.9, "nesterov": False},
    "epochs": 240,
    "batch_size": 64,
    "learning_rate": 0.05,
    "schedule": "step",
    "weight_decay": 5e-4,
    "decay_all": True,
}
"""How these were trained, as a recipe writes it."""


def published_for(
    task: Mapping[str, Any], teacher: Mapping[str, Any], student: Mapping[str, Any], train: Train
) -> dict[str, float]:
    """Return what was published for a task, a pair of networks and a training; models and task as a recipe
    would write them.

    Returns:
        {name of a distiller as here, or `baseline`: test accuracy in per cent}.
    """
    written = plain(train, lambda part: identify(part).name)
    is_theirs = all(written[key] == value for key, value in _TRAINING.items())
    if task.get("name") != "CIFAR100" or not is_theirs:
        return {}
    accuracies = _ACCURACIES.get((_spell(teacher), _spell(student)), ())
    return dict(zip(_METHODS[: len(accuracies)], accuracies, strict=True))


def _spell(model: Mapping[str, Any]) -> str:
    shortcut = "" if model.get("projection") else " without projection"
    return f"{model.get('use')} {model.get('depth')}×{model.get('width', 1)}{shortcut}"


_OMNIGLOT: Mapping[tuple[str, str], Mapping[tuple[int, int], str]] = {
    ("maml", "transductive"): {(5, 1): "98.7 ± 0.4", (5, 5): "99.9 ± 0.1"},
    ("maml first order", "transductive"): {(5, 1): "98.3 ± 0.5", (5, 5): "99.2 ± 0.2"},
    ("reptile", "per-query"): {(5, 1): "95.39 ± 0.09", (5, 5): "98.90 ± 0.10"},
    ("reptile", "transductive"): {(5, 1): "97.68 ± 0.04", (5, 5): "99.48 ± 0.06"},
    ("protonet", "running"): {(5, 1): "98.8", (5, 5): "99.7"},
}


_SINE = {1: "0.67", 5: "0.38", 10: "0.35"}


def published_few_shot(stage: MetaStage, task: TaskSource) -> str:
    """Return what was published for a meta-learner on a task's episodes, as it was written there, or "" where
    method, batch statistics or task are others.
    """
    method, shape, data = spell(stage.method), stage.episodes, spell(task)
    name = method["use"]
    if method.get("learned_rates") or method.get("multi_step"):
        return ""
    if data["use"] == "sine":
        waves = (data.get("amplitude", 5.0), data.get("reach", 5.0), shape.ways, shape.shots)
        is_theirs = name == "maml" and not method.get("first_order") and waves == (5.0, 5.0, 1, 5)
        return _SINE.get(method.get("adaptation_steps") or 0, "") if is_theirs else ""
    is_theirs = (data.get("rotations", 4), data.get("test_characters", 423)) == (4, 423)
    if data["use"] != "omniglot" or not is_theirs:
        return ""
    if name == "maml" and method.get("first_order"):
        name += " first order"
    return _OMNIGLOT.get((name, stage.normalisation), {}).get((shape.ways, shape.shots), "")
