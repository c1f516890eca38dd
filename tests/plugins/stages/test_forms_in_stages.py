"""What stages ask of tasks that are not classes of images: units, columns, shapes, and settings that fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

import learnforge as lf
from learnforge.artifact import from_module
from learnforge_kit import MemorySplit
from learnforge_kit.networks.modules import check_fit
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.export import Deployed, ExportStage, Proof


def numbers(mean: float = 1e6, count: int = 60, seed: int = 0) -> lf.Task:
    """Make a task of one number, a sum of its inputs, in units far from 0."""
    generator = torch.Generator().manual_seed(seed)
    splits = []
    for _ in range(3):
        x = torch.randn(count, 4, generator=generator)
        splits.append(MemorySplit(x, x.sum(1, keepdim=True) / 2))
    info = lf.TaskInfo(
        "sums",
        ("sum",),
        ("sums:sum",),
        (4,),
        (0.0,) * 4,
        (1.0,) * 4,
        "regression",
        inputs="floats",
        target_mean=(mean,),
        target_std=(10.0,),
        reading={"use": "table", "delimiter": ",", "columns": []},
    )
    return lf.Task(info, splits[0], splits[1], splits[2])


@pytest.mark.parametrize(
    "change",
    [
        {"target_mean": (2e6,)},
        {"target_std": (1.0,)},
        {"reading": {"use": "table", "delimiter": ";", "columns": []}},
        {"form": "multi-label"},
        {"inputs": "bytes"},
    ],
)
def test_networks_of_other_units_and_columns_do_not_fit(change: dict[str, Any]) -> None:
    """Their numbers would mean something else; another mean of inputs goes with the network, and may be."""
    task = numbers().info
    (problem,) = check_fit("from", evolve(task, **change), task)
    assert f"it learnt another {next(iter(change))}" in problem.message
    assert check_fit("from", evolve(task, mean=(1.0,) * 4), task) == []


class Constant(nn.Module):
    """Answers the same for all inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Answer nothing."""
        return inputs[:, :1] * self.weight


class Sums(nn.Module):
    """Answers right."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 1)
        nn.init.constant_(self.last.weight, 0.5)
        nn.init.zeros_(self.last.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Answer half the sum."""
        found: Tensor = self.last(inputs)
        return found


def test_a_file_that_answers_the_mean_is_no_copy() -> None:
    """The proof is in the units that were learnt: a mean of a million hides no error."""
    task = numbers()
    stage = ExportStage(name="export", method=lf.load_method("exporter.torch-export")())
    right, wrong = (Deployed(module, task.info).eval() for module in (Sums(), Constant()))
    proof = Proof(task.test, task.test.labels)
    assert stage._prove(right, task.info, right, proof).is_equal
    compared = stage._prove(right, task.info, wrong, proof)
    assert not compared.is_equal
    assert compared.file.test < 0.1
    assert compared.network.test == pytest.approx(1.0, abs=1e-3)  # in 32 bits about a million
    assert "must give the network's outputs within" in stage._fault(compared, task.info)


def test_a_table_is_distilled() -> None:
    """Inputs of one axis reach a teacher in batches of any size."""
    task = numbers(count=70)
    teacher = from_module(Sums(), task.info)
    student = lf.load_method("model.mlp")(hidden=(8,))
    train = Train(epochs=2, batch_size=32)
    made = lf.distill(teacher, student=student, method="rkd", task=task, train=train)
    assert made.metrics["test_measures"].keys() == {"r2", "rmse", "mae"}
    assert made.metrics["teacher_test_measures"]["r2"] == pytest.approx(1.0)
    words = "use: kd takes tasks of the form classification, sums is regression"
    with pytest.raises(lf.RecipeError, match=words):
        lf.distill(teacher, student=student, method="kd", task=task, train=train)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"balanced": True}, "need one class for each input; sums is regression"),
        ({"mixup": 0.2}, "for inputs of three axes"),
        ({"time_mask": 0.2}, r"those of sums have the shape \[4\]"),
        ({"crop": 1}, "for inputs of three axes"),
    ],
)
def test_settings_that_do_not_fit_are_found_before(settings: dict[str, Any], words: str) -> None:
    """By the check of each stage, not in the middle of a training."""
    task, train = numbers(), Train(epochs=1, **settings)
    model = lf.load_method("model.mlp")(hidden=(8,))
    with pytest.raises(lf.RecipeError, match=f"train: .*{words}"):
        lf.transfer(model, task, "fine-tune", train=train)
    with pytest.raises(lf.RecipeError, match=f"train: .*{words}"):
        lf.search(task, space="mlp", method="random", trials=1, train=train)
    with pytest.raises(lf.RecipeError, match=f"train: .*{words}"):
        lf.distill(from_module(Sums(), task.info), student=model, method="rkd", task=task, train=train)


def test_errors_are_to_be_small() -> None:
    """A search for the largest error is a slip, and told."""
    with pytest.raises(lf.RecipeError, match="'rmse' is an error, of which less is better: write '-rmse'"):
        lf.search(numbers(), space="mlp", method="random", trials=1, objectives=["rmse"])
    train = Train(epochs=1)
    found = lf.search(numbers(), space="mlp", method="random", trials=1, objectives=["-rmse"], train=train)
    assert list(found.metrics["objectives"]) == ["-rmse"]


def test_numbers_by_ridge() -> None:
    """A linear probe solves a linear task in its units; other classifiers are refused."""
    task = numbers()
    model = lf.load_method("model.mlp")(hidden=(64,))
    ridge = lf.load_method("transfer.linear-probe")(classifier="ridge")
    made = lf.transfer(model, task, ridge, baseline=False)
    assert made.metrics["test_measures"]["r2"] > 0.8
    told = made.predict(task.test.images)
    wanted = task.test.labels.double() * 10 + 1e6
    assert float((told - wanted).square().mean().sqrt()) == pytest.approx(
        made.metrics["test_measures"]["rmse"]
    )
    with pytest.raises(lf.LearnforgeError, match="must be `ridge`"):
        lf.transfer(model, task, "linear-probe", baseline=False)
