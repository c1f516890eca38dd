"""Evaluators in a search: what they share, what they may say, and where they go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from attrs import evolve, field, frozen
from torch import Tensor, nn

from learnforge import Context, Evaluator, Plugins, Space, StageError, Task, Trial, View
from learnforge import context as context_module
from learnforge.kinds.evaluator import Evaluator as Base
from learnforge_kit import Train, Trainee, evaluate, fit
from learnforge_plugins.stages.search.stage import SearchStage

MakeContext = Callable[..., Context]
QUICK = Train(epochs=1, batch_size=20)


class CutError(Exception):
    """Stands for a kill."""


@frozen
class Heads(Evaluator):
    """Trains a linear map that all trials share, in a part with a name that is easy to think of."""

    part: str = "evaluator"
    said: Callable[[Trial], Any] = field(default=lambda trial: {}, eq=False)

    def prepare(
        self, space: Space, view: View, task: Task, train: Any, context: Context
    ) -> Mapping[str, Tensor]:
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, task.info.outputs))
        loss = nn.functional.cross_entropy
        trainee = Trainee(network, lambda batch: loss(network(batch.images), batch.labels))
        fit(trainee, task.train, task.info, Train(epochs=4, batch_size=20), context, self.part)
        weight = network[1].weight.detach()
        return {"weight": weight, "tied": weight, "noise": torch.rand(3)}

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        weight = trial.shared["weight"]
        scores = evaluate(lambda images: images.flatten(1) @ weight.T, trial.task.validation, trial.task.info)
        drawn = float(torch.rand(()))
        return {"accuracy": scores.accuracy, "loss": scores.loss + drawn, **self.said(trial)}


def stage(plugins: Plugins, evaluator: Base, **settings: Any) -> SearchStage:
    """Make a search of small residual networks."""
    space = plugins.load("space", "residual")(stages=1, blocks=1, max_width=16)
    method = plugins.load("searcher", "random")()
    chosen = {"trials": 2, "train": QUICK, "retrain": QUICK, **settings}
    return SearchStage(name="search", method=method, space=space, evaluator=evaluator, **chosen)


@pytest.fixture
def run(plugins: Plugins, task: Task, make_context: MakeContext) -> Callable[..., Any]:
    """Run a search by an evaluator."""

    def started(evaluator: Base, folder: Path | None = None, emit: Any = None, **settings: Any) -> Any:
        more = {"emit": emit} if emit is not None else {}
        executor = plugins.load("executor", "serial")()
        context = evolve(make_context(folder, **more), plugins=plugins, executor=executor)
        return stage(plugins, evaluator, **settings).run(task, {}, context)

    return started


def untimed(artifact: Any) -> list[dict[str, Any]]:
    """Return the trials without their seconds."""
    return [{k: v for k, v in trial.items() if k != "seconds"} for trial in artifact.metrics["history"]]


def test_a_preparation_goes_on_whatever_its_part_is_called(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off amid it, the search ends with the same tensors and trials, drawn numbers among them."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)

    def stop(event: str, metrics: Mapping[str, Any] | None = None, **data: Any) -> None:
        if event == "epoch_finished" and metrics is not None and metrics["epoch"] == 3:
            raise CutError

    expected = run(Heads())
    with pytest.raises(CutError):
        run(Heads(), tmp_path, stop)
    found = run(Heads(), tmp_path)
    assert found.adapter.keys() == {"weight", "tied", "noise"}
    assert all(torch.equal(tensor, found.adapter[name]) for name, tensor in expected.adapter.items())
    assert untimed(found) == untimed(expected)


def test_what_is_shared_can_be_kept(run: Callable[..., Any], tmp_path: Path) -> None:
    """Tied tensors are written as two, and read again."""
    made = run(Heads(), tmp_path)
    made.save(tmp_path / "kept")
    from learnforge.artifact import load_artifact

    again = load_artifact(tmp_path / "kept")
    assert torch.equal(again.adapter["tied"], made.adapter["weight"])


def test_costs_are_not_the_evaluators_to_say(run: Callable[..., Any]) -> None:
    """What is measured of a design stays; further names are left out."""
    made = run(Heads(said=lambda trial: {"parameters": 1.0, "mood": 2.0}), objectives=("-parameters",))
    judged = [trial["metrics"] for trial in made.metrics["history"]]
    assert all(metrics["parameters"] > 100 and "mood" not in metrics for metrics in judged)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (lambda trial: {"accuracy": torch.tensor([0.1, 0.2])}, "ValueError: only one element tensors"),
        (lambda trial: {"accuracy": None}, "TypeError"),
        (lambda trial: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_an_error_fails_the_trial_alone(
    run: Callable[..., Any], said: Callable[[Trial], Any], words: str
) -> None:
    """A value that is no number is an error of the trial that it is of; tensors of one are numbers."""
    made = run(
        Heads(said=lambda trial: said(trial) if trial.number == 0 else {"accuracy": torch.tensor(0.5)})
    )
    first, second, *_ = made.metrics["history"]
    assert (first["state"], second["state"]) == ("failed", "evaluated")
    assert words in first["reason"]
    assert second["metrics"]["accuracy"] == 0.5


@frozen
class Careless(Heads):
    """Leaves out what it promises."""

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "robustness")


@frozen
class Shapeless(Heads):
    """Shares what is no tensor."""

    def prepare(self, *arguments: Any) -> Any:
        return {"weight": [1.0]}


def test_what_is_wrong_with_an_evaluator_is_said(run: Callable[..., Any]) -> None:
    """A missing metric by its name, and what cannot be shared by its value."""
    with pytest.raises(StageError, match=r"Careless\.evaluate leaves out robustness"):
        run(Careless(), objectives=("robustness",))
    with pytest.raises(StageError, match=r"Shapeless\.prepare must return tensors by name, it returned"):
        run(Shapeless())


def test_scores_alone_search_without_training(run: Callable[..., Any], plugins: Plugins) -> None:
    """The evaluator `score` orders designs by a zero-cost score; rungs do not go with it."""
    score = plugins.load("evaluator", "score")()
    naswot = plugins.load("score", "naswot")()
    settings: dict[str, Any] = {"scores": (naswot,), "objectives": ("naswot",), "trials": 6}
    made = run(score, **settings)
    judged = [trial["metrics"] for trial in made.metrics["history"] if trial["state"] == "evaluated"]
    assert len(judged) > 2
    assert all("accuracy" not in metrics for metrics in judged)
    chosen = next(t for t in made.metrics["history"] if t["design"] == made.metrics["design"])
    assert chosen["metrics"]["naswot"] == max(metrics["naswot"] for metrics in judged)
