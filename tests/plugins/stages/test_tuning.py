"""Options as ranges: what a recipe may say, the search over them, and what stays unread meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve

import learnforge as lf
from learnforge import Plugins, RecipeError, Task
from learnforge.check import Tasks as LoadedTasks
from learnforge.check import check_recipe
from learnforge.options.filling import set_options
from learnforge.options.ranges import Range
from learnforge.recipe import parse_recipe
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages import tuning
from learnforge_plugins.stages.search import pool

TEACH: dict[str, Any] = {
    "kind": "distill",
    "use": "kd",
    "teacher": {"use": "resnet", "depth": 8},
    "teacher_train": {"epochs": 0},
    "student": {"use": "mobilenet", "width": {"low": 0.2, "high": 0.5}},
    "options": {"temperature": {"low": 1, "high": 8, "log": True}, "alpha": {"choices": [0.5, 1]}},
    "train": {"epochs": 1, "batch_size": {"low": 16, "high": 64}},
    "tune": {"searcher": "random", "trials": 3},
}


def recipe(**changes: Any) -> dict[str, Any]:
    task = {"use": "digits", "classes": [0, 1], "labels_per_class": 10}
    return {"run": {"device": "cpu"}, "task": task, "stage": [{**TEACH, **changes}]}


def problems(plugins: Plugins, **changes: Any) -> dict[str, str]:
    try:
        parsed = parse_recipe(recipe(**changes), plugins)
        check_recipe(parsed, plugins, LoadedTasks())
    except RecipeError as error:
        return {problem.path: problem.message for problem in error.problems}
    return {}


def test_ranges_are_taken_out_of_a_recipe(plugins: Plugins) -> None:
    """Ranges anywhere in a stage become its ranges, of their option's type; their first values stand in for
    them.
    """
    (stage,) = parse_recipe(recipe(), plugins).stages
    assert stage.ranges == {
        "student.width": Range(0.2, 0.5),
        "options.temperature": Range(1.0, 8.0, log=True),
        "options.alpha": Range(choices=(0.5, 1.0)),
        "train.batch_size": Range(16, 64),
    }
    assert isinstance(stage.ranges["options.temperature"].low, float)
    assert isinstance(stage.ranges["train.batch_size"].low, int)
    assert (stage.method.temperature, stage.train.batch_size) == (1.0, 16)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("key", "value", "path", "words"),
    [
        (
            "options",
            {"temperature": {"low": 8, "high": 1}},
            "temperature",
            "low must be below high, got 8 and",
        ),
        (
            "options",
            {"temperature": {"low": 0, "high": 1, "log": True}},
            "temperature",
            "low must be above 0",
        ),
        ("options", {"temperature": {"low": -1.0, "high": 1}}, "temperature", "'temperature' must be > 0"),
        (
            "options",
            {"temperature": {"low": "a", "high": "b"}},
            "temperature",
            "low and high must be numbers",
        ),
        ("options", {"alpha": {"choices": []}}, "alpha", "a range is"),
        ("options", {"alpha": {"choices": 0.5}}, "alpha", "choices must be a list, got 0.5"),
        ("options", {"alpha": {"choices": [0.5, "x"]}}, "alpha", "must be a number, got 'x' (str)"),
        ("options", {"alpha": {"choices": [0.5, 3.0]}}, "alpha", "'alpha' must be <= 1"),
        ("train", {"epochs": {"low": 1.5, "high": 2}}, "epochs", "must be a whole number, got 1.5"),
        ("train", {"epoch": {"low": 1, "high": 2}}, "epoch", "unknown option; did you mean 'epochs'?"),
        ("task", {"use": "digits", "classes": {"choices": [1]}}, "classes", "the data of a stage cannot be"),
        ("tune", {"searcher": "random", "objectives": ["acc"]}, "objectives", "unknown metric 'acc'"),
        ("tune", {"searcher": "random", "limits": {"params": 1}}, "limits.params", "unknown cost"),
        ("tune", {"searcher": "rand"}, "searcher.use", "there is no searcher 'rand'"),
    ],
)
def test_what_is_wrong_with_a_range_is_said(
    key: str, value: Any, path: str, words: str, plugins: Plugins
) -> None:
    """Each wrong range is reported at its path, before anything is computed."""
    found = problems(plugins, **{key: value})
    assert words in found[f"stage.distill.{key}.{path}"]


def test_ranges_and_tune_belong_together(plugins: Plugins) -> None:
    """A range without `tune`, and `tune` without a range, are errors that say what is missing."""
    table = {key: value for key, value in TEACH.items() if key != "tune"}
    with pytest.raises(
        RecipeError, match=r"tune: is missing, and options\.temperature is a range|is a range; say how"
    ):
        check_recipe(parse_recipe({**recipe(), "stage": [table]}, plugins), plugins, LoadedTasks())
    plain = problems(plugins, student={"use": "mobilenet"}, options={}, train={"epochs": 1})
    assert plain["stage.distill.tune"].startswith("there is no range; write { low = …, high = … }")


def test_set_option_goes_as_deep_as_needed() -> None:
    """An option is changed in a copy, through objects and tables, and validated."""
    changed = set_options({"train": Train(epochs=3)}, {"train.epochs": 5, "train.crop": 1})
    assert changed == {"train": Train(epochs=5, crop=1)}
    with pytest.raises(ValueError, match="epochs"):
        set_options(Train(), {"epochs": -1})


def test_options_that_rule_each_other_change_together(plugins: Plugins) -> None:
    """Two ranges that only go together in part are allowed; what breaks the rule is refused, and the search
    goes on.
    """
    stage = {
        "kind": "search",
        "use": "random",
        "space": {
            "use": "mlp",
            "layers": 1,
            "min_width": {"low": 4, "high": 64},
            "max_width": {"low": 8, "high": 64},
        },
        "trials": 1,
        "train": {"epochs": 1},
        "retrain": {"epochs": 1},
        "tune": {"searcher": "random", "trials": 4},
    }
    found = lf.run({**recipe(), "stage": [stage]}).artifacts["search"].metrics["tuned"]
    assert found["trials"] == 4
    refused = [entry["reason"] for entry in found["history"] if entry["state"] == "refused"]
    assert refused
    assert all("max_width must be at least min_width" in reason for reason in refused)


def test_a_tuned_search_keeps_two_studies(tmp_path: Path) -> None:
    """The search over options and the search that they belong to do not mix."""
    stage = {
        "kind": "search",
        "use": "evolution",
        "options": {"population": {"low": 2, "high": 4}},
        "space": {"use": "mlp", "layers": 1},
        "trials": 2,
        "train": {"epochs": 1},
        "retrain": {"epochs": 1},
        "tune": {"searcher": "random", "trials": 2},
    }
    found = lf.run({**recipe(), "stage": [stage]}, tmp_path).artifacts["search"].metrics
    assert found["trials"] == found["tuned"]["trials"] == 2
    assert all(set(entry["design"]) == {"options.population"} for entry in found["tuned"]["history"])
    assert {file.name for file in (tmp_path / "search").glob("*.db")} == {"study.db", "options.db"}


def test_what_a_plugin_brings_is_no_range(plugins: Plugins) -> None:
    """A teacher, a student or a space cannot be a range, since inputs are resolved once."""
    with pytest.raises(RecipeError, match=r"stage\.distill\.teacher: what a plugin brings cannot be a range"):
        parse_recipe(recipe(teacher={"choices": ["a", "b"]}), plugins)


def test_values_that_an_option_refuses_are_passed_over() -> None:
    """Of depths 8 to 14 only the two that there are can be built; the others are refused, with the reason."""
    student = {"use": "resnet", "depth": {"low": 8, "high": 14}}
    tuned = run(student=student, tune={"searcher": "random", "trials": 2}).metrics["tuned"]
    assert {e["design"]["student.depth"] for e in tuned["history"] if e["state"] == "evaluated"} <= {8, 14}
    assert all("depth" in e["reason"] for e in tuned["history"] if e["state"] == "refused")


def test_latency_is_measured_before_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """A latency limit refuses a design before its trial, by one measurement of fresh weights."""
    calls: list[float] = []

    def measure(network: Any, info: Any, threads: int) -> float:
        calls.append(float(sum(p.numel() for p in network.parameters())))
        return calls[-1]

    monkeypatch.setattr(tuning, "measure_latency", measure)
    tune = {"searcher": "random", "trials": 2, "limits": {"latency_ms": 9000.0}}
    tuned = run(student={"use": "mobilenet", "width": {"low": 0.2, "high": 1.0}}, tune=tune).metrics["tuned"]
    assert len(calls) == tuned["trials"] + tuned["refused"]
    assert all(e["metrics"]["latency_ms"] <= 9000.0 for e in tuned["history"] if e["state"] == "evaluated")


def run(folder: Path | None = None, **changes: Any) -> Any:
    return lf.run(recipe(**changes), folder).artifacts["distill"]


def test_the_best_options_are_used(tmp_path: Path) -> None:
    """Trials are judged on validation data; the stage then runs with the best, as if a recipe had named
    them.
    """
    tuned = run(tmp_path)
    told = tuned.metrics["tuned"]["history"]
    best = tuned.metrics["tuned"]["options"]
    accuracies = [entry["metrics"]["accuracy"] for entry in told]
    assert len(accuracies) == 3
    assert best == told[accuracies.index(max(accuracies))]["design"]
    assert all(1.0 <= entry["design"]["options.temperature"] <= 8.0 for entry in told)
    assert {type(entry["design"]["train.batch_size"]) for entry in told} == {int}
    named = run(
        options={"temperature": best["options.temperature"], "alpha": best["options.alpha"]},
        student={"use": "mobilenet", "width": best["student.width"]},
        train={"epochs": 1, "batch_size": best["train.batch_size"]},
        tune=None,
    )
    assert all(torch.equal(tensor, tuned.weights[name]) for name, tensor in named.weights.items())
    assert "baseline_test_accuracy" in tuned.metrics
    report = (tmp_path / "distill" / "metrics.json").read_text()
    assert '"tuned"' in report


def test_trials_never_see_the_test_split(monkeypatch: pytest.MonkeyPatch, plugins: Plugins) -> None:
    """In a trial the test split is the validation split, and the baseline is left out."""
    seen: list[tuple[bool, bool]] = []
    (stage,) = parse_recipe(recipe(), plugins).stages
    original = type(stage).run

    def spy(self: Any, task: Task, inputs: Any, context: Any) -> Any:
        seen.append((task.test is task.validation, self.baseline))
        return original(self, task, inputs, context)

    monkeypatch.setattr(type(stage), "run", spy)
    run()
    assert seen == [(True, False)] * 3 + [(False, True)]


def test_limits_refuse_before_a_trial(tmp_path: Path) -> None:
    """A student that is too large is refused from its options alone, and never trained."""
    tune = {"searcher": "random", "trials": 2, "limits": {"parameters": 8000}}
    student = {"use": "mobilenet", "width": {"low": 0.2, "high": 2.0}}
    tuned = run(tune=tune, student=student).metrics["tuned"]
    assert tuned["refused"] > 0
    assert all(e["metrics"]["parameters"] <= 8000 for e in tuned["history"] if e["state"] == "evaluated")
    assert all(e["seconds"] == 0 for e in tuned["history"] if e["state"] == "refused")


def test_a_killed_search_over_options_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after a trial it goes on with the next, and ends with the same weights."""
    expected = run()
    run_trial, calls = pool.run_trial, []

    def kill(job: Any) -> Any:
        calls.append(job.number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run_trial(job)

    with monkeypatch.context() as patch:
        patch.setattr(pool, "run_trial", kill)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    again = run(tmp_path)
    assert calls == [0, 1]
    assert all(torch.equal(tensor, again.weights[name]) for name, tensor in expected.weights.items())


@pytest.mark.slow
def test_workers_find_the_same_options() -> None:
    """With `batch` set, two processes find what one worker finds."""
    tune = {"searcher": "random", "trials": 3, "batch": 3}
    alone = run(tune=tune).metrics["tuned"]["options"]
    together = lf.run(recipe(tune=tune), workers=2).artifacts["distill"].metrics["tuned"]["options"]
    assert together == alone


def test_every_kind_of_stage_can_be_tuned(plugins: Plugins) -> None:
    """A search's trials, a transfer's rate and an inner rate of meta-learning are judged on validation
    data.
    """
    task = {"use": "digits", "classes": [0, 1, 2]}
    meta_task = {"use": "digits", "classes": [0, 1, 2, 3, 5], "test_classes": [4, 7]}
    stages: list[dict[str, Any]] = [
        {
            "kind": "search",
            "use": "evolution",
            "options": {"population": {"low": 2, "high": 4}},
            "space": {"use": "mlp", "layers": 1, "max_width": 16},
            "trials": 2,
            "train": {"epochs": 1},
            "retrain": {"epochs": 1},
        },
        {
            "kind": "transfer",
            "use": "fine-tune",
            "train": {"epochs": 1, "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}},
            "options": {"head_epochs": 0},
        },
        {
            "kind": "meta",
            "use": "maml",
            "options": {"inner_rate": {"choices": [0.1, 0.4]}},
            "from": {"use": "conv4", "width": 4},
            "task": meta_task,
            "episodes": {"ways": 2, "shots": 1, "queries": 2},
            "iterations": 2,
            "tasks": 2,
            "test_episodes": 400,
        },
    ]
    tuned = [{**stage, "tune": {"searcher": "random", "trials": 2}} for stage in stages]
    made = lf.run({"run": {"device": "cpu"}, "task": task, "stage": tuned})
    for artifact in made.artifacts.values():
        found = artifact.metrics["tuned"]
        assert found["trials"] == 2
        assert all(0 <= entry["metrics"]["accuracy"] <= 1 for entry in found["history"])


def test_fingerprints_know_ranges(plugins: Plugins) -> None:
    """Another range, or another searcher, is another stage."""
    (stage,) = parse_recipe(recipe(), plugins).stages
    prints = [
        evolve(stage, ranges={**stage.ranges, "options.alpha": Range(choices=(0.5, 0.6))}).fingerprint_data(),
        evolve(stage, tune=evolve(stage.tune, searcher=plugins.load("searcher", "rl")())).fingerprint_data(),
        stage.fingerprint_data(),
    ]
    assert len({str(print_) for print_ in prints}) == 3


def test_options_are_no_network() -> None:
    """The space of options makes choices; it cannot build."""
    with pytest.raises(NotImplementedError):
        tuning.OptionSpace({}).build({}, None)  # type: ignore[arg-type]
