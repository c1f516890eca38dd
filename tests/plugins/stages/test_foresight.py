"""What is known before training: costs, scores, filters, warm starts, and what searchers are told of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from learnforge import CostMeter, Plugins, RecipeError, Score, StageError, Task, TaskInfo
from learnforge.recipe import parse_recipe
from learnforge_plugins.stages.search import networks, pool
from learnforge_plugins.stages.search.record import Filter, Ranking, WarmStart
from learnforge_plugins.stages.search.stage import SearchStage
from tests.plugins.stages.conftest import QUICK, MakeContext


@frozen
class Units(CostMeter):
    """Counts outputs of the hidden layer, on the meta device."""

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        assert next(network.parameters()).device.type == "meta"
        return float(next(layer for layer in network.modules() if isinstance(layer, nn.Linear)).out_features)


SEEN: list[int] = []


@frozen
class Counting(Score):
    """Counts how often it is asked, and knows nothing."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        SEEN.append(1)
        return float("nan")


@frozen
class Clock(CostMeter):
    """Says how often it was asked."""

    needs_weights = True
    calls: list[float]

    @property
    def label(self) -> str:
        return "phone_ms"

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        assert next(network.parameters()).device.type == "cpu"
        self.calls.append(1.0)
        return float(len(self.calls))


@frozen
class Wide(Score):
    """Prefers wide hidden layers."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        assert network.training
        assert len(images) == len(labels) == 60
        assert abs(float(images.mean())) < 1
        return float(next(layer for layer in network.modules() if isinstance(layer, nn.Linear)).out_features)


def test_costs_of_plugins_limit_and_are_objectives(search: Any) -> None:
    """A cost on the meta device is known before training, under its plugin's name or its label."""
    objective = {"costs": (Units(),)}
    records, told = search(
        5, ("accuracy", "-Units"), {"Units": 2}, objective=objective, searcher=("random", {})
    )
    assert all(record.metrics["Units"] == record.design["width"] <= 2 for record in records)
    assert {e["reason"] for e in told if e["state"] == "refused"} <= {"Units 3 > 2", "Units 4 > 2"}


def test_measured_costs_are_measured_once(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cost that needs weights is measured once for each new design, stored, and never again."""

    def kill(job: Any) -> Any:
        raise KeyboardInterrupt

    storage, objective = optuna.storages.InMemoryStorage(), {"costs": (Clock([]),)}
    options: dict[str, Any] = {"objectives": ("accuracy", "-phone_ms"), "objective": objective}
    with monkeypatch.context() as patch:
        patch.setattr(pool, "run_trial", kill)
        with pytest.raises(KeyboardInterrupt):
            search(2, storage=storage, **options)
    records, _ = search(2, storage=storage, **options)
    assert [record.metrics["phone_ms"] for record in records] == [1.0, 2.0]


def test_scores_are_metrics(search: Any) -> None:
    """A score is computed for every design, and may be an objective."""
    records, _ = search(5, ("Wide",), objective={"scores": (Wide(),)})
    assert all(record.metrics["Wide"] == record.design["width"] for record in records)


def test_a_score_is_computed_once(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a design is looked at, its score is computed once; a score without value is the
    lowest.
    """
    SEEN.clear()
    goals = {"warm_start": Ranking("Counting", 12, 3)}
    records, _ = search(6, objective={"scores": (Counting(),)}, goals=goals)
    assert len(SEEN) <= 12
    assert not any(
        "Counting" in record.metrics for record in records
    )  # it has no value, which JSON could not hold


def test_an_objective_without_value_refuses(search: Any) -> None:
    """Where a score is an objective, a design for which it is not finite is refused before it is trained."""
    with pytest.raises(StageError, match="Counting must be finite, it is -inf"):
        search(3, ("accuracy", "Counting"), objective={"scores": (Counting(),)}, searcher=("random", {}))


@frozen
class Faulty(Wide):
    """Fails for one width."""

    def score(self, network: nn.Module, images: Tensor, labels: Tensor) -> float:
        found = Wide.score(self, network, images, labels)
        if found == 2.0:
            raise RuntimeError("no score for two")
        return found


def test_a_score_that_fails_refuses_one_design(search: Any) -> None:
    """An error in the score of one design costs that design alone."""
    records, told = search(9, objective={"scores": (Faulty(),)}, searcher=("random", {}))
    assert {record.design["width"] for record in records} == {1, 3, 4}
    reasons = {entry["reason"] for entry in told if entry["state"] == "refused"}
    assert reasons == {"Faulty cannot be computed: RuntimeError: no score for two"}


@pytest.mark.parametrize("searcher", ["local", "nsga2", "predictor"])
def test_failed_designs_are_not_proposed_again(searcher: str, search: Any) -> None:
    """A searcher that knows the space keeps off designs that failed: hardly any trial repeats one."""
    options = {"population": 2} if searcher == "nsga2" else {"initial": 2}
    told = search(12, faults={2: "error", 4: "error"}, searcher=(searcher, options))[1]
    repeats = [entry for entry in told if entry["state"] == "repeat"]
    assert len(repeats) <= 12


def test_a_warm_start_comes_first(search: Any) -> None:
    """The designs that the score prefers are evaluated before any other, best first; then the searcher goes
    on.
    """
    options: dict[str, Any] = {"objective": {"further_scores": (Wide(),)}}
    goals = {"warm_start": Ranking("Wide", 12, 4)}
    records, _ = search(6, goals=goals, searcher=("random", {}), **options)
    assert [record.design["width"] for record in records[:4]] == [4, 4, 4, 3]
    assert "Wide" not in records[0].metrics  # asked for by name alone


def test_a_warm_start_keeps_the_limits(search: Any) -> None:
    """Designs that the limits refuse are not among the candidates."""
    goals, objective = {"warm_start": Ranking("Wide", 9, 3)}, {"further_scores": (Wide(),)}
    records, _ = search(3, limits={"parameters": 210}, goals=goals, objective=objective)
    assert [record.design["width"] for record in records] == [3, 3, 3]


def test_a_warm_start_goes_on_after_a_kill(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while its designs are put into the queue, it puts in the rest and no more."""
    goals, objective = {"warm_start": Ranking("Wide", 12, 4)}, {"further_scores": (Wide(),)}
    expected = search(6, goals=goals, objective=objective)[1]
    enqueue = optuna.Study.enqueue_trial
    for last in range(1, 5):
        storage, calls = optuna.storages.InMemoryStorage(), []

        def counted(*arguments: Any, last: int = last, calls: list[int] = calls, **more: Any) -> None:
            calls.append(1)
            if len(calls) == last:
                raise KeyboardInterrupt
            enqueue(*arguments, **more)

        with monkeypatch.context() as patch:
            patch.setattr(optuna.Study, "enqueue_trial", counted)
            with pytest.raises(KeyboardInterrupt):
                search(6, goals=goals, objective=objective, storage=storage)
        assert search(6, goals=goals, objective=objective, storage=storage)[1] == expected


def test_a_filter_refuses_the_lower_part(search: Any) -> None:
    """With half of 12 designs kept, those of widths 1 and 2 are refused, with their score and the bar."""
    goals, objective = {"filter": Ranking("Wide", 12, 0.5)}, {"further_scores": (Wide(),)}
    records, told = search(6, goals=goals, objective=objective, searcher=("random", {}))
    assert {record.design["width"] for record in records} == {3, 4}
    reasons = {entry["reason"] for entry in told if entry["state"] == "refused"}
    assert reasons <= {"Wide 1 < 3, the filter's bar", "Wide 2 < 3, the filter's bar"}


def test_searchers_see_scores(toy_plugins: Plugins, task: Task, make_context: MakeContext) -> None:
    """A view offers the scores that the stage computes, by name."""
    space = toy_plugins.load("space", "toy")()
    objective = networks.NetworkObjective(space, task, QUICK, 0, "s", scores=(Wide(),))
    context = make_context(None)
    assert objective.score("Wide", {"width": 3, "act": "relu"}, context) == 3.0


LAYERS = Path(__file__).parents[2] / "testing" / "layers.json"
SEARCH = {
    "kind": "search",
    "use": "random",
    "space": {"use": "residual"},
    "objectives": ["accuracy", "naswot"],
    "scores": ["naswot", {"use": "logsynflow"}],
    "warm_start": {"score": "snip", "candidates": 5, "keep": 2},
    "filter": {"score": "grad-norm", "keep": 0.75},
    "costs": [{"use": "lookup", "file": str(LAYERS), "label": "a_ms", "missing": 0.1}],
    "limits": {"a_ms": 3.0},
}


def test_a_recipe_names_scores_and_costs(plugins: Plugins, task: Task) -> None:
    """Lists of names and tables become methods; their code and options count in the fingerprint."""
    data = {"task": {"use": "digits"}, "stage": [SEARCH]}
    (stage,) = parse_recipe(data, plugins).stages
    assert isinstance(stage, SearchStage)
    assert isinstance(stage.warm_start, WarmStart)
    assert isinstance(stage.filter, Filter)
    assert stage.metrics(task.info)[-3:] == ["a_ms", "naswot", "logsynflow"]
    assert stage.check(task, {}, Plugins()) == []
    print_ = stage.fingerprint_data()
    assert print_["settings"]["scores"] == [{"use": "naswot"}, {"use": "logsynflow"}]
    assert print_["settings"]["warm_start"] == {"score": {"use": "snip"}, "candidates": 5, "keep": 2}
    names = {entry["name"] for entry in print_["code"]}
    assert {"naswot", "logsynflow", "snip", "grad-norm", "lookup", "residual", "random"} <= names


def test_what_is_wrong_with_scores_is_said(plugins: Plugins, task: Task) -> None:
    """Unknown names, an objective that is not computed, and names that come twice are all reported."""
    wrong = {**SEARCH, "scores": ["naswt"], "warm_start": {"score": "snip", "candidates": 2, "keep": 5}}
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"task": {"use": "digits"}, "stage": [wrong]}, plugins)
    words = str(caught.value)
    assert "stage.search.scores[0].use: there is no score 'naswt'; did you mean 'naswot'?" in words
    assert "stage.search.warm_start: keep must be at most candidates = 2, got 5" in words
    (stage,) = parse_recipe({"task": {"use": "digits"}, "stage": [SEARCH]}, plugins).stages
    assert isinstance(stage, SearchStage)
    bad = evolve(stage, objectives=("accuracy", "snip"), costs=stage.costs * 2)
    found = {problem.path: problem.message for problem in bad.check(task, {}, Plugins())}
    assert found["objectives"].startswith("unknown metric 'snip'")
    assert found["costs"] == "names must differ, a_ms comes twice; give a cost a `label`"


def test_a_stage_searches_with_all_of_it(
    plugins: Plugins, tmp_path: Path, task: Task, make_context: MakeContext
) -> None:
    """A search with scores, warm start, filter and a predictor that learns from scores runs to its end."""
    table = {
        **SEARCH,
        "use": "predictor",
        "options": {"initial": 3, "candidates": 20, "scores": ["naswot"]},
        "space": {"use": "residual", "stages": 1, "blocks": 1, "max_width": 64},
        "costs": [],
        "limits": {"parameters": 5000},
        "objectives": ["accuracy"],
        "trials": 5,
        "train": {"epochs": 1},
        "retrain": {"epochs": 1},
    }
    (stage,) = parse_recipe({"task": {"use": "digits"}, "stage": [table]}, plugins).stages
    artifact = stage.run(task, {}, make_context(tmp_path))
    told = artifact.metrics["history"]
    assert artifact.metrics["trials"] == 5
    assert all({"naswot", "logsynflow"} <= set(e["metrics"]) for e in told if e["state"] == "evaluated")
    assert torch.isfinite(torch.tensor([e["metrics"]["naswot"] for e in told if e["metrics"]])).all()


def test_a_cost_file_counts_in_the_fingerprint(plugins: Plugins, task: Task, tmp_path: Path) -> None:
    """Another content is another stage; a file that is not there is an error of the recipe."""
    file = tmp_path / "phone.json"
    file.write_text('{"layers": {"ReLU": 1.0}}')
    table = {**SEARCH, "costs": [{"use": "lookup", "file": str(file), "label": "a_ms"}]}
    (stage,) = parse_recipe({"task": {"use": "digits"}, "stage": [table]}, plugins).stages
    before = stage.fingerprint_data()
    file.write_text('{"layers": {"ReLU": 2.5}}')
    assert stage.fingerprint_data() != before
    file.unlink()
    problems = {problem.path: problem.message for problem in stage.check(task, {}, Plugins())}
    assert f"{file} must be a JSON file with layers, but No such file or directory" in problems["costs[0]"]


@frozen
class Nothing(CostMeter):
    """Knows no network, and does not say why."""

    def measure(self, network: nn.Module, task: TaskInfo) -> float:
        raise KeyError


def test_a_cost_that_knows_no_design_is_found_by_the_check(toy_plugins: Plugins, task: Task) -> None:
    """What the search would refuse design by design is said before it, and so is a space none of whose
    designs can be built; single ones that cannot are left to the search.
    """
    make, method = toy_plugins.load("space", "toy"), toy_plugins.load("searcher", "random")()

    def check(faults: dict[int, str], *costs: CostMeter) -> list[str]:
        stage = SearchStage(name="stage", space=make(faults), method=method, costs=costs)
        return [str(problem) for problem in stage.check(task, {}, Plugins())]

    words = "costs[1]: refuses each of 10 random designs of the space, the first since: KeyError"
    assert check({}, Units(), Nothing()) == [words]
    assert check({}, Units()) == []
    some = check(dict.fromkeys(range(1, 4), "unbuildable"), Nothing())
    assert len(some) == 1
    assert re.fullmatch(r"costs\[0\]: refuses each of \d random designs .*: KeyError", some[0])
    (none,) = check(dict.fromkeys(range(1, 5), "unbuildable"), Units())
    assert none.startswith("space: none of 10 random designs can be built, the first since: ")


def test_what_a_searcher_refuses_is_known_beforehand(plugins: Plugins, task: Task) -> None:
    """A sampler that does not exist, or a score that is not computed, is an error of the check."""
    for use, options, words in (
        ("optuna", {"sampler": "TPE"}, "must have a sampler 'TPE'"),
        ("optuna", {"sampler": "TPESampler", "arguments": {"nonsense": 1}}, "nonsense"),
        ("predictor", {"scores": ["snip"]}, "the search must compute snip, it computes naswot, logsynflow"),
    ):
        table = {**SEARCH, "use": use, "options": options, "objectives": ["accuracy"]}
        (stage,) = parse_recipe({"task": {"use": "digits"}, "stage": [table]}, plugins).stages
        (problem,) = stage.check(task, {}, Plugins())
        assert problem.path == "options"
        assert words in problem.message
