"""A study's file: what is in it when, and that Optuna reads from it what was put in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState

from learnforge_kit.search.trials import sqlite_url
from learnforge_plugins.stages.search import pool
from learnforge_plugins.stages.search.objective import TrialJob, TrialResult
from learnforge_plugins.stages.search.storage import open_study, store_asked


@contextlib.contextmanager
def reading(path: Path) -> Iterator[optuna.Study]:
    """Open the file by Optuna alone."""
    storage = optuna.storages.RDBStorage(sqlite_url(path))
    yield optuna.load_study(study_name="toy", storage=storage)
    storage.remove_session()
    storage.engine.dispose()


def trials_in(path: Path) -> list[FrozenTrial]:
    with reading(path) as study:
        return study.get_trials()


def choose(trial: optuna.Trial, count: int = 3) -> None:
    """Make choices of every sort, whose names are in no order."""
    trial.suggest_categorical("z", [True, "two", 3.0, None])
    trial.suggest_float("y", 1e-3, 1.0, log=True)
    for number in range(count):
        trial.suggest_int(f"x{9 - number}", 0, 8, step=2)


def told(study: optuna.Study) -> None:
    """Ask five trials and end four of them: complete, with an attribute, pruned, failed, from the queue."""
    study.enqueue_trial({"z": "two"}, user_attrs={"from": "queue"})
    for value, state in (
        (2.5, None),
        (float("-inf"), None),
        (None, TrialState.PRUNED),
        (None, TrialState.FAIL),
    ):
        trial = study.ask()
        choose(trial)
        trial.set_user_attr("note", {"seconds": 1.5})
        trial.report(0.25, 3)
        study.tell(trial, value, state=state)
    choose(study.ask())


TIMES = ("_datetime_start", "datetime_complete")


def require_same(found: list[FrozenTrial], expected: list[FrozenTrial]) -> None:
    """Require trials that are equal but for their ids, the order of choices included; times to a minute."""
    for one, other in zip(found, expected, strict=True):
        left, right = ({**vars(trial), "_trial_id": 0} for trial in (one, other))
        for name in TIMES:
            ends = left.pop(name), right.pop(name)
            assert ends == (None, None) or abs((ends[0] - ends[1]).total_seconds()) < 60
        assert left == right
        assert list(one.params) == list(other.params)


def test_optuna_reads_what_was_put_in(tmp_path: Path) -> None:
    """Choices in their order, values, attributes, states and times."""
    path = tmp_path / "study.db"
    with open_study(path, "toy", ["maximize"], metrics=["accuracy"]) as study:
        told(study)
        expected = study.get_trials()
    assert [trial.state.name for trial in expected] == ["COMPLETE", "COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    require_same(trials_in(path), expected)


def test_a_study_that_is_opened_again_is_the_same(tmp_path: Path) -> None:
    """Its trials, attributes and names are those from before, and it goes on from the next number."""
    path = tmp_path / "study.db"
    with open_study(path, "toy", ["maximize"], metrics=["accuracy"]) as study:
        study.set_user_attr("floor", 0.5)
        told(study)
        expected = study.get_trials()
    with open_study(path, "toy", ["maximize"]) as study:
        require_same(study.get_trials(), expected)
        assert (study.user_attrs, study.metric_names) == ({"floor": 0.5}, ["accuracy"])
        running = optuna.Trial(study, study.get_trials(deepcopy=False)[4]._trial_id)
        assert running.suggest_int("more", 4, 4) == 4
        study.tell(running, 1.0)
        assert study.ask().number == 5
    assert trials_in(path)[4].params == {**expected[4].params, "more": 4}


def test_what_was_stored_is_no_longer_the_callers(tmp_path: Path) -> None:
    """A value that is changed afterwards is in memory what it is in the file."""
    path, value = tmp_path / "study.db", {"stands": (1, 2)}
    with open_study(path, "toy", ["maximize"]) as study:
        trial = study.ask()
        trial.set_user_attr("note", value)
        trial.storage.set_trial_system_attr(trial._trial_id, "note", value)
        study.set_user_attr("note", value)
        value["stands"] = (3,)
        (held,) = study.get_trials()
        kept = study.user_attrs["note"]
    assert held.user_attrs["note"] == held.system_attrs["note"] == kept == {"stands": [1, 2]}
    assert trials_in(path)[0].user_attrs["note"] == {"stands": [1, 2]}


def test_what_was_asked_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    """It is in the file from when it is stored on, with all that was asked before it; a kill forgets the
    rest.
    """
    path = tmp_path / "study.db"
    with contextlib.suppress(KeyboardInterrupt), open_study(path, "toy", ["maximize"]) as study:
        first, second = study.ask(), study.ask()
        choose(first)
        choose(second)
        assert trials_in(path) == []
        store_asked(study)
        assert [len(trial.params) for trial in trials_in(path)] == [5, 5]
        third = study.ask()
        choose(third)
        study.tell(second, 1.0)
        assert [len(trial.params) for trial in trials_in(path)] == [5, 5, 5]
        choose(study.ask())
        raise KeyboardInterrupt
    assert [trial.state.name for trial in trials_in(path)] == ["RUNNING", "COMPLETE", "RUNNING"]


def test_a_batch_is_stored_before_its_first_trial_runs(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that those in flight at a kill run again with the choices they had."""
    path, run_trial, stored = tmp_path / "study.db", pool.run_trial, []

    def run(job: TrialJob) -> TrialResult:
        stored.append({trial.number: trial.params for trial in trials_in(path)})
        return run_trial(job)

    monkeypatch.setattr(pool, "run_trial", run)
    search(trials=3, batch=3, searcher=("random", {}), storage=path)
    assert len(stored[0]) >= 3
    assert stored[0] == {trial.number: trial.params for trial in trials_in(path)}


@pytest.mark.parametrize("count", [1, 40])
def test_a_trial_takes_three_transactions_however_many_choices_it_has(count: int, tmp_path: Path) -> None:
    """One for what it was asked, one for the note and one for the result."""
    commits: list[Any] = []
    with open_study(tmp_path / "study.db", "toy", ["maximize"]) as study:
        note = commits.append
        sqlalchemy.event.listen(sqlalchemy.Engine, "commit", note)
        try:
            trial = study.ask()
            choose(trial, count)
            store_asked(study)
            trial.set_user_attr("note", 1)
            study.tell(trial, 1.0)
        finally:
            sqlalchemy.event.remove(sqlalchemy.Engine, "commit", note)
    assert len(commits) == 3
