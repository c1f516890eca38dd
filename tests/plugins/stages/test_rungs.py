"""Rungs: which trials go on, the same bits as without stops, resume, several objectives."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from attrs import evolve

from learnforge import Plugins, Task
from learnforge_plugins.stages.search import networks, pool
from learnforge_plugins.stages.search.ladder import Ladder
from learnforge_plugins.stages.search.objective import TrialResult
from learnforge_plugins.stages.search.rungs import Rungs, bracket_sizes
from learnforge_plugins.stages.search.stage import SearchStage
from tests.plugins.stages.conftest import QUICK, MakeContext

NINE = evolve(QUICK, epochs=9)
UP = (["maximize"], ["accuracy"])


@pytest.mark.parametrize(
    ("rungs", "index", "levels"),
    [
        (Rungs("asha", 1, 3), 5, [1, 3, 9]),
        (Rungs("halving", 2, 2), 0, [2, 4, 8, 16]),
        (Rungs("median", 5), 3, [5, 10, 15, 20]),
        (Rungs("hyperband", 1, 3), 0, [1, 3, 9]),
    ],
)
def test_levels_by_hand(rungs: Rungs, index: int, levels: list[int]) -> None:
    """Rungs stand at first * eta^k epochs, those of the median every `first`, all below the whole
    training.
    """
    assert rungs.levels(index, 25) == levels


def test_brackets_are_hyperbands() -> None:
    """Of R = 81 and eta = 3 the paper's table 1 has 81, 34, 15, 8 and 5 trials in its brackets."""
    assert bracket_sizes(4, 3) == [81, 34, 15, 8, 5]
    rungs = Rungs("hyperband", 1, 3)
    cycle = [rungs.bracket(index, 81) for index in range(sum([81, 34, 15, 8, 5]))]
    assert {0, 1, 2} <= set(cycle[:12])  # a short search has several brackets too
    assert [cycle.count(bracket) for bracket in range(5)] == [81, 34, 15, 8, 5]
    assert [rungs.levels(cycle.index(b), 81) for b in (0, 2, 4)] == [[1, 3, 9, 27], [9, 27], []]


@pytest.mark.parametrize(
    ("method", "own", "others", "goes_on"),
    [
        ("asha", 0.5, [], True),  # the first always goes on
        ("asha", 0.5, [0.4, 0.3], True),  # best of three
        ("asha", 0.4, [0.5, 0.3], False),  # second of three, one goes on
        ("asha", 0.4, [0.5, 0.3, 0.2, 0.1, 0.0], True),  # second of six, two go on
        ("asha", 0.5, [0.5, 0.1], False),  # of equals the older
        ("median", 0.1, [0.5, 0.4, 0.3], True),  # too few to stop one
        ("median", 0.1, [0.5, 0.4, 0.3, 0.2], False),
        ("median", 0.35, [0.5, 0.4, 0.3, 0.2], True),
        ("asha", math.nan, [0.1], False),
    ],
)
def test_who_goes_on_by_hand(method: Any, own: float, others: list[float], goes_on: bool) -> None:
    """A third with eta = 3, at least one; with the median the better half."""
    rungs = Rungs(method, reduction=3)
    values = [*([value] for value in others), [own]]
    assert rungs.goes_on(len(others), values, *UP) is goes_on


def test_several_objectives_are_ranked_together() -> None:
    """Without `by` the non-dominated go on; with it that objective alone counts."""
    directions, names = ["maximize", "minimize"], ["accuracy", "parameters"]
    values = [[0.5, 10.0], [0.9, 100.0], [0.4, 50.0]]
    assert Rungs("asha").goes_on(0, [[0.5, 10.0], [0.4, 100.0], [0.3, 50.0]], directions, names)
    assert not Rungs("asha", by="accuracy").goes_on(0, values, directions, names)
    assert Rungs("asha", by="parameters").goes_on(0, values, directions, names)


def test_equal_trials_do_not_stop_each_other() -> None:
    """Where all of a batch come out the same, the older ones go on."""
    found = [Rungs("halving", reduction=2).goes_on(i, [[0.5]] * 4, *UP) for i in range(4)]
    assert found == [True, True, False, False]


def test_trials_that_go_on_end_as_if_never_stopped(search: Any) -> None:
    """A trial that passes every rung has the very metrics of a search without rungs."""
    whole = {r.key: r.metrics for r in search(trials=4, train=NINE, searcher=("random", {}))[0]}
    goals = {"rungs": Rungs("asha", 1, 3)}
    records, told = search(trials=4, train=NINE, searcher=("random", {}), goals=goals)
    assert records
    assert all(whole[record.key] == record.metrics for record in records)
    stopped = [entry for entry in told if entry["state"] == "stopped"]
    assert {entry["epochs"] for entry in stopped} <= {1, 3}
    assert len(records) + len(stopped) == 4


def test_a_rung_is_a_job_that_goes_on_from_a_state(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each job names the epochs to reach and brings the state of the one before it; the first has none."""
    jobs: list[Any] = []
    run = pool.run_trial
    monkeypatch.setattr(pool, "run_trial", lambda job: (jobs.append(job), run(job))[1])
    search(trials=1, train=NINE, goals={"rungs": Rungs("asha", 1, 3)})
    assert [(job.epochs, job.state is None) for job in jobs] == [(1, True), (3, False), (9, False)]


def test_halving_keeps_the_best_of_a_batch(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six, the two best go on at the first rung, and the best of those at the second."""

    def run(job: Any) -> TrialResult:
        score = {"accuracy": 0.1 * job.number, "loss": 0.0}
        return TrialResult(job.number, score, 0.5, state=b"state")

    monkeypatch.setattr(pool, "run_trial", run)
    goals = {"rungs": Rungs("halving", 1, 3)}
    options: dict[str, Any] = {"train": NINE, "goals": goals, "searcher": ("random", {})}
    _, told = search(trials=6, batch=6, **options)
    ends = [(e["state"], e["epochs"]) for e in told if e["state"] != "repeat"]
    assert sorted(ends, key=lambda end: end[1]) == [("stopped", 1)] * 4 + [("stopped", 3), ("evaluated", 9)]
    assert [e["metrics"]["accuracy"] for e in told if e["state"] == "evaluated"] == [
        max(e["metrics"]["accuracy"] for e in told)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["asha", "hyperband", "median", "halving"])
def test_rungs_are_the_same_for_any_number_of_workers(search: Any, method: Any) -> None:
    """With `batch` set, two processes stop and continue the trials that one worker does."""
    goals = {"rungs": Rungs(method, 1, 2)}
    options: dict[str, Any] = {"trials": 5, "batch": 3, "train": evolve(QUICK, epochs=4), "goals": goals}
    alone = search(**options)[1]
    assert search(**options, executor="processes", workers=2)[1] == alone
    assert {"stopped", "evaluated"} <= {entry["state"] for entry in alone} or method == "median"


class Kill(BaseException):
    """Stands for a kill."""


@pytest.mark.parametrize("batch", [None, 3])
def test_a_search_with_rungs_goes_on_after_any_kill(
    search: Any, batch: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before or after any job or note of a rung, it ends with the records of a search that was not."""
    goals = {"rungs": Rungs("asha", 1, 2)}
    options: dict[str, Any] = {"trials": 4, "batch": batch, "train": evolve(QUICK, epochs=4), "goals": goals}
    expected = search(**options)[1]
    run, note, moments = pool.run_trial, optuna.trial.Trial.set_user_attr, 0
    for last in range(1, 40):
        seen = 0

        def tick(last: int = last) -> None:
            nonlocal seen
            seen += 1
            if seen == last:
                raise Kill

        def running(job: Any) -> Any:
            tick()
            result = run(job)
            tick()
            return result

        def noting(self: Any, name: str, value: Any) -> None:
            tick()
            note(self, name, value)

        storage, folder = optuna.storages.InMemoryStorage(), tmp_path / str(last)
        with monkeypatch.context() as patch:
            patch.setattr(pool, "run_trial", running)
            patch.setattr(optuna.trial.Trial, "set_user_attr", noting)
            try:
                search(**options, storage=storage, folder=folder)
                break
            except Kill:
                moments += 1
        assert search(**options, storage=storage, folder=folder)[1] == expected, last
    assert moments > 15


def test_a_batch_with_several_survivors_goes_on_after_any_kill(search: Any, tmp_path: Path) -> None:
    """Killed after any note of a rung, a batch is decided rung by rung as it would have been."""
    goals = {"rungs": Rungs("halving", 1, 2)}
    options: dict[str, Any] = {"trials": 6, "batch": 6, "train": evolve(QUICK, epochs=8), "goals": goals}
    expected = search(**options, searcher=("random", {}))[1]
    climb, last = Ladder.climb, 0
    while True:
        last += 1
        calls = 0

        def climbing(self: Any, *arguments: Any, last: int = last) -> None:
            nonlocal calls
            climb(self, *arguments)
            calls += 1
            if calls == last:
                raise Kill

        storage, folder = optuna.storages.InMemoryStorage(), tmp_path / str(last)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Ladder, "climb", climbing)
            try:
                search(**options, searcher=("random", {}), storage=storage, folder=folder)
                break
            except Kill:
                pass
        found = search(**options, searcher=("random", {}), storage=storage, folder=folder)[1]
        assert found == expected, last
    assert last > 9


def test_states_are_kept_in_the_folder_and_removed(search: Any, tmp_path: Path) -> None:
    """While a trial may go on its state lies in `checkpoint/`; afterwards nothing is left there."""
    search(trials=3, train=NINE, goals={"rungs": Rungs("asha", 1, 3)}, folder=tmp_path)
    assert list((tmp_path / "checkpoint").iterdir()) == []


def test_everything_together(search: Any) -> None:
    """Several objectives, a limit and rungs: refused designs are never trained, stopped ones are none of the
    front.
    """
    goals = {"rungs": Rungs("asha", 1, 3)}
    records, told = search(
        6, ("accuracy", "-parameters"), {"parameters": 210}, train=NINE, goals=goals, searcher=("random", {})
    )
    states = Counter(entry["state"] for entry in told)
    assert states["refused"] > 0
    assert states["stopped"] > 0
    assert all(record.metrics["parameters"] <= 210 and record.epochs == 9 for record in records)


def test_check_refuses_rungs_that_cannot_be(
    toy_plugins: Plugins, task: Task, make_context: MakeContext
) -> None:
    """Halving without batches, a first rung at the end, and an unknown objective are all reported."""
    stage = SearchStage(
        name="s",
        space=toy_plugins.load("space", "toy")(),
        method=toy_plugins.load("searcher", "random")(),
        train=evolve(QUICK, epochs=3),
        rungs=Rungs("halving", first=3, by="los"),
    )
    found = {problem.path: problem.message for problem in stage.check(task, {}, Plugins())}
    assert set(found) == {"batch", "rungs.first", "rungs.by"}
    assert found["rungs.first"] == "must be below train.epochs = 3, got 3"


def test_a_kept_state_is_not_written_in_between() -> None:
    """Only the state at a rung is kept, not those of the epochs before it."""
    kept = networks._Kept(None)
    kept.save(lambda: {"epoch": 1})
    assert kept.state is None
    kept.save(lambda: {"epoch": 2}, final=True)
    assert kept.state is not None
    assert networks._Kept(kept.state).load(networks.torch.device("cpu")) == {"epoch": 2}
