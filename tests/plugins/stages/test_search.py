"""The search: driver, resume, duplicates, limits, Pareto sets, samplers and the stage around them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import json
import math
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
import sqlalchemy
import torch
from attrs import evolve
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import learnforge as lf
from learnforge import (
    Context,
    DivergedError,
    PluginChoice,
    Plugins,
    Searcher,
    Slot,
    StageError,
    Task,
    View,
    hookimpl,
)
from learnforge_kit import HistorySampler, SpaceView, Train, best_first, mutate
from learnforge_kit.search.pareto import crowding_distance, non_dominated_rank, to_losses
from learnforge_kit.search.sampler import contains, draw, generator
from learnforge_kit.workers import environment_fault
from learnforge_plugins.reports.write import write_report
from learnforge_plugins.stages.search import driver, networks, pool
from learnforge_plugins.stages.search import stage as stage_module
from learnforge_plugins.stages.search.objective import TrialJob, TrialResult
from learnforge_plugins.stages.search.record import Record
from learnforge_plugins.stages.search.stage import SearchStage
from learnforge_plugins.stages.search.storage import open_study
from tests.plugins.stages.conftest import QUICK, MakeContext, timeless


class Kill(BaseException):
    """Stands for a kill: no handler of Exception stops it."""


# The driver


@pytest.mark.slow
def test_a_batch_makes_the_search_independent_of_workers(search: Any, tmp_path: Path) -> None:
    """With `batch` set, two processes, one of which dies once, find the trials that one worker finds.

    The space comes from a plugin file, which the processes load by themselves; a killed process is replaced
    and costs one retry.
    """
    alone = search(trials=4, batch=2)[1]
    faults = dict.fromkeys(range(1, 5), str(tmp_path / "died"))
    together = search(trials=4, batch=2, executor="processes", workers=2, faults=faults)[1]
    assert (tmp_path / "died").exists()
    assert together == alone
    assert [entry["number"] for entry in alone] == sorted(entry["number"] for entry in alone)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_trials_are_the_same_for_any_number_of_processes(search: Any, workers: int) -> None:
    """With `batch = 8` two and four processes find what one worker finds; `test_ray.py` has the same for a
    cluster.
    """
    alone = search(trials=10, batch=8)[1]
    assert search(trials=10, batch=8, executor="processes", workers=workers)[1] == alone


def test_batches_are_asked_before_they_run(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `batch = 3`, the choices of three new designs are stored before the first of them trains."""
    events: list[str] = []
    ask, run_trial = optuna.Study.ask, pool.run_trial
    monkeypatch.setattr(optuna.Study, "ask", lambda *a, **k: (events.append("ask"), ask(*a, **k))[1])
    monkeypatch.setattr(pool, "run_trial", lambda job: (events.append("run"), run_trial(job))[1])
    told = search(trials=6, batch=3)[1]
    runs = "".join(event[0] for event in events).replace("a", " ").split()
    assert runs == ["rrr", "rrr"]
    assert events.count("ask") == len(told)


def test_a_batch_is_told_in_trial_order(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever trial of a batch ends first, the search goes the same way."""
    expected = search(trials=6, batch=3)[1]
    collect, emitted = pool.Pool.collect, []
    monkeypatch.setattr(pool.Pool, "collect", lambda own, wait_for_all: collect(own, wait_for_all)[::-1])

    def emit(event: str, trial: Mapping[str, Any], **data: Any) -> None:
        if trial["state"] == "evaluated":
            emitted.append(trial["number"])

    assert search(trials=6, batch=3, emit=emit)[1] == expected
    assert emitted == sorted(emitted)


def test_failed_trials_count_after_a_restart_too(search: Any) -> None:
    """A finished search, started again, asks for nothing more, though some of its trials failed."""
    storage, faults = optuna.storages.InMemoryStorage(), {1: "error", 2: "error"}
    told = search(trials=6, faults=faults, storage=storage)[1]
    assert {"failed", "evaluated"} <= {entry["state"] for entry in told}
    assert search(trials=6, faults=faults, storage=storage)[1] == told


def test_repeats_are_told_the_known_result_and_not_counted(search: Any) -> None:
    """A repeat carries its twin's design and metrics, and `trials` counts distinct designs only."""
    records, told = search(trials=10)
    states = Counter(entry["state"] for entry in told)
    assert states["evaluated"] == len(records) == 10
    assert states["repeat"] > 0
    by_number = {entry["number"]: entry for entry in told}
    for entry in told:
        if entry["state"] == "repeat":
            known = by_number[int(entry["reason"].removeprefix("repeats trial "))]
            assert (entry["design"], entry["metrics"]) == (known["design"], known["metrics"])
    assert len({record.key for record in records}) == 10


def test_a_small_space_is_exhausted_and_the_search_ends(search: Any) -> None:
    """A space of 12 designs is evaluated whole, however many trials are asked for."""
    records, _ = search(trials=100, batch=4)
    found = {(record.design["width"], record.design["act"]) for record in records}
    assert len(records) == len(found) == 12


def test_limits_refuse_before_training(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A design over a limit is refused with numbers, never trained, and not counted."""
    trained: list[int] = []
    run_trial = pool.run_trial
    monkeypatch.setattr(
        pool, "run_trial", lambda job: (trained.append(job.design["width"]), run_trial(job))[1]
    )
    # 64 w + w + 3 w + 3 parameters: 139 with w = 2, 207 with w = 3
    records, told = search(trials=6, limits={"parameters": 139}, searcher=("random", {}))
    assert len(records) == 6
    assert set(trained) == {1, 2}
    refused = [entry for entry in told if entry["state"] == "refused"]
    assert {entry["reason"] for entry in refused} <= {"parameters 207 > 139", "parameters 275 > 139"}
    assert refused


def test_searchers_ask_what_is_allowed(search: Any) -> None:
    """A searcher that knows the space proposes designs within the limits, once it has begun to learn."""
    for searcher in (
        ("evolution", {"population": 2}),
        ("local", {"initial": 1}),
        ("nsga2", {"population": 2}),
    ):
        told = search(trials=6, limits={"parameters": 139}, searcher=searcher)[1]
        begun = next(i for i, e in enumerate(told) if sum(t["state"] == "evaluated" for t in told[:i]) == 2)
        assert [e for e in told[begun:] if e["state"] == "refused"] == [], searcher


def test_refused_trials_are_pruned_and_failed_ones_fail(search: Any, tmp_path: Path) -> None:
    """Optuna's samplers learn from pruned trials to keep away; a failed trial tells them nothing."""
    path = tmp_path / "study.db"
    options: dict[str, Any] = {"limits": {"parameters": 139}, "faults": {1: "error"}}
    told = search(9, **options, searcher=("random", {}), storage=path)[1]
    with open_study(path, "toy", ["maximize"]) as study:
        states = {t.number: t.state.name for t in study.trials}
    expected = {"refused": "PRUNED", "failed": "FAIL", "evaluated": "COMPLETE"}
    for entry in told:
        if entry["state"] in expected:
            assert states[entry["number"]] == expected[entry["state"]]
    assert {"PRUNED", "FAIL", "COMPLETE"} == set(states.values())


def test_a_plugin_may_refuse_designs(search: Any, toy_plugins: Plugins, tmp_path: Path) -> None:
    """What `learnforge_vet_design` gives as a reason is the reason of the refusal."""
    veto = tmp_path / "veto.py"
    veto.write_text(
        "from learnforge import hookimpl\n\n@hookimpl\ndef learnforge_vet_design(design, cost, stage):\n"
        "    return f'{stage} wants no tanh' if design['act'] == 'tanh' else None\n"
    )
    records, told = search(trials=8, plugins=Plugins(PluginChoice(files=(veto,))), searcher=("random", {}))
    assert {record.design["act"] for record in records} == {"relu", "gelu"}
    assert len(records) == 8
    refused = {entry["reason"] for entry in told if entry["state"] == "refused"}
    assert refused == {"stage wants no tanh"}


def test_a_search_whose_designs_are_all_refused_says_so(search: Any) -> None:
    """Where no design is allowed, the error names the last refusal and what to do."""
    words = (
        r"none of \d+ different designs is allowed; the last refusal: parameters \d+ > 10; the least "
        r"parameters was \d+\. Raise `limits`"
    )
    with pytest.raises(StageError, match=words):
        search(limits={"parameters": 10}, searcher=("random", {}))


@pytest.mark.parametrize(
    ("fault", "words"),
    [("nan", "the training loss must be finite"), ("error", "ValueError: this network does not work")],
)
def test_a_failing_trial_fails_alone(fault: str, words: str, search: Any) -> None:
    """A trial that diverges or raises is counted as failed, with its reason, and the search goes on."""
    records, told = search(trials=12, faults={2: fault})
    failed = [entry for entry in told if entry["state"] == "failed"]
    assert len(failed) == 3
    assert len(records) == 9
    assert all(entry["design"]["width"] == 2 and entry["reason"].startswith(words) for entry in failed)


def test_a_search_whose_trials_all_fail_says_so(search: Any) -> None:
    """Where every trial fails, the error says how many and why the last one did."""
    with pytest.raises(StageError, match="all 3 trials failed; the last one: ValueError: this network does"):
        search(trials=3, faults=dict.fromkeys(range(1, 5), "error"))


class Clock:
    """Raises `Kill` at the n-th moment."""

    def __init__(self, last: float):
        self.last, self.now = last, 0

    def tick(self) -> None:
        self.now += 1
        if self.now == self.last:
            raise Kill

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Tick before and after each call."""

        def call(*arguments: Any, **options: Any) -> Any:
            self.tick()
            result = function(*arguments, **options)
            self.tick()
            return result

        return call


def killed_at(moment: float, run: Callable[[Callable[..., None]], Any]) -> tuple[Any, int]:
    """Run a search that is killed at a moment; return its result, if it has one, and the moments seen."""
    clock = Clock(moment)
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (optuna.Study, "ask"),
            (driver, "tell"),
            (optuna.trial.Trial, "suggest_int"),
            (optuna.trial.Trial, "set_user_attr"),
            (pool, "run_trial"),
        ):
            patch.setattr(owner, name, clock.around(getattr(owner, name)))
        try:
            return run(lambda *a, **k: clock.tick()), clock.now
        except Kill:
            return None, clock.now


@pytest.mark.parametrize(("batch", "trials"), [(1, 4), (3, 5)])
def test_a_search_killed_anywhere_goes_on_as_if_it_had_not_been(search: Any, batch: int, trials: int) -> None:
    """Killed at any call of ask, suggest, store, run, tell or emit, the search ends with the same records."""
    expected, moments = killed_at(math.inf, lambda emit: search(trials, batch=batch, seed=12, emit=emit)[1])
    assert Counter(entry["state"] for entry in expected)["repeat"] > 0
    assert moments > 10 * trials
    for moment in range(1, moments + 1):
        storage = optuna.storages.InMemoryStorage()
        result, _ = killed_at(
            moment,
            lambda emit, storage=storage: search(trials, batch=batch, seed=12, storage=storage, emit=emit),
        )
        assert result is None
        assert search(trials, batch=batch, seed=12, storage=storage)[1] == expected, moment


@pytest.mark.parametrize("moment", [8, 31, 47])
def test_a_search_in_sqlite_goes_on_as_well(search: Any, moment: int, tmp_path: Path) -> None:
    """The same holds for the SQLite file that a run keeps."""
    path = tmp_path / "study.db"
    result, _ = killed_at(moment, lambda emit: search(5, batch=3, storage=path, emit=emit))
    assert result is None
    assert search(5, batch=3, storage=path)[1] == search(5, batch=3)[1]


def test_a_lost_worker_is_no_result_of_a_design(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that loses its worker twice ends the search, and stores nothing; the next run tries it again,
    and ends as one without the fault.
    """
    from concurrent.futures import BrokenExecutor

    run_trial = pool.run_trial
    tried: list[int] = []

    def run(job: Any) -> TrialResult:
        tried.append(job.number)
        if job.number == 1:
            raise BrokenExecutor
        return run_trial(job)

    storage = optuna.storages.InMemoryStorage()
    monkeypatch.setattr(pool, "run_trial", run)
    with pytest.raises(lf.StageError, match="trial 1 could not run twice, the second time alone; nothing is"):
        search(trials=3, batch=3, storage=storage)
    assert tried.count(1) == 2
    monkeypatch.setattr(pool, "run_trial", run_trial)
    assert search(trials=3, batch=3, storage=storage)[1] == search(trials=3, batch=3)[1]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), MemoryError()])
def test_a_full_disk_is_no_result_of_a_design(
    search: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What the machine lacks ends the search, is named, and is tried again by the next run."""

    def fail(self: object, job: Any, place: Any) -> TrialResult:
        raise error

    storage = optuna.storages.InMemoryStorage()
    with monkeypatch.context() as patched:
        patched.setattr(networks.NetworkObjective, "evaluate", fail)
        with pytest.raises(lf.StageError, match="trial 0 could not run; nothing is stored of it") as caught:
            search(trials=3, batch=3, storage=storage)
    assert environment_fault(error) in str(caught.value)
    assert search(trials=3, batch=3, storage=storage)[1] == search(trials=3, batch=3)[1]


def test_memory_that_runs_out_in_the_driver_is_no_verdict(
    search: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a latency is found out before the training, too: the search ends, and no design is refused."""

    def fail(*arguments: Any, **named: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    storage = optuna.storages.InMemoryStorage()
    options: dict[str, Any] = {"objectives": ("accuracy", "-latency_ms")}
    with monkeypatch.context() as patched:
        patched.setattr(networks, "measure_latency", fail)
        with pytest.raises(lf.StageError, match="a design could not be judged; nothing is stored of it"):
            search(3, storage=storage, **options)
    assert {record["state"] for record in search(3, storage=storage, **options)[1]} == {"evaluated"}


def test_a_trial_is_tried_again_when_nothing_runs_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a lost worker, the job waits for the others to end, and the rest for it."""
    running, seen, begun = [0], dict[int, int](), list[int]()
    lost = {1}

    class Slow(concurrent.futures.ThreadPoolExecutor):
        def submit(self, fn: Any, /, *arguments: Any, **named: Any) -> concurrent.futures.Future[Any]:
            running[0] += 1
            seen[arguments[0].number] = running[0]
            begun.append(arguments[0].number)
            return super().submit(fn, *arguments, **named)

    def run(job: TrialJob) -> TrialResult:
        time.sleep(0.05)
        if job.number == 1 and job.number not in lost:
            time.sleep(0.1)
            assert begun[-1] == 1, "another job was begun beside it"
        running[0] -= 1
        if job.number in lost:
            lost.remove(job.number)
            raise concurrent.futures.BrokenExecutor
        return TrialResult(job.number, {}, 0.0)

    monkeypatch.setattr(pool, "run_trial", run)
    slots = [Slot(1, "cpu")] * 3
    jobs = pool.Pool(slots, lambda slots: [Slow(1) for _ in slots])
    for number in range(6):
        jobs.submit(TrialJob("search", number, {}))
    assert sorted(result.number for result in jobs.collect(wait_for_all=True)) == [0, 1, 2, 3, 4, 5]
    jobs.close()
    assert seen[1] == 1


def test_a_latency_is_measured_once_and_stored(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new design is measured once; after a kill the stored measurement is used."""
    measured: list[int] = []

    def measure(network: torch.nn.Module, info: Any, threads: int) -> float:
        measured.append(1)
        return float(len(measured))

    monkeypatch.setattr(networks, "measure_latency", measure)
    storage = optuna.storages.InMemoryStorage()
    run_trial = pool.run_trial

    def kill(job: Any) -> TrialResult:
        raise Kill

    monkeypatch.setattr(pool, "run_trial", kill)
    options: dict[str, Any] = {"objectives": ("accuracy", "-latency_ms"), "limits": {"latency_ms": 2.5}}
    with pytest.raises(Kill):
        search(trials=2, storage=storage, **options)
    assert len(measured) == 1
    monkeypatch.setattr(pool, "run_trial", run_trial)
    records, _ = search(trials=2, storage=storage, **options)
    assert [record.metrics["latency_ms"] for record in records] == [1.0, 2.0]
    search(trials=2, storage=storage, **options)
    assert len(measured) == 2


def test_studies_are_where_their_paths_say(tmp_path: Path) -> None:
    """Characters that mean something in a URL are a path's own: no two runs share a study."""
    for name in ("a?b", "a?c", "50%20", "x#y", "{SCHEMA_VERSION}", "two words"):
        path = tmp_path / name / "study.db"
        with open_study(path, "toy", ["maximize"]) as study:
            study.add_trial(optuna.trial.create_trial(value=float(len(name))))
        assert path.is_file()
        with open_study(path, "toy", ["maximize"]) as study:
            assert [trial.value for trial in study.trials] == [len(name)]


def test_study_opens_with_optuna(search: Any, tmp_path: Path) -> None:
    """`optuna.load_study` reads the file: complete trials with the objective's values, failed ones marked."""
    path = tmp_path / "study.db"
    told = search(trials=4, faults={2: "error"}, storage=path)[1]
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    study = optuna.load_study(study_name="toy", storage=storage)
    complete = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    evaluated = [e for e in told if e["state"] in ("evaluated", "repeat") and e["metrics"].get("accuracy")]
    assert [t.value for t in complete] == [e["metrics"]["accuracy"] for e in evaluated]
    assert all(set(t.params) == {"width", "act"} for t in study.trials)
    storage.remove_session()
    storage.engine.dispose()


def test_study_opens_in_the_dashboard(search: Any, tmp_path: Path) -> None:
    """The documented command serves the study, with the objectives by name."""
    path, port = tmp_path / "study.db", free_port()
    search(3, ("accuracy", "-parameters"), storage=path)
    place = Path(sys.executable).with_name("optuna-dashboard")
    server = subprocess.Popen(
        [str(place), f"sqlite:///{path}", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline, studies = time.monotonic() + 60, []
        address = f"http://127.0.0.1:{port}/api/studies"
        while not studies and time.monotonic() < deadline:
            with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
                studies = json.load(answer)["study_summaries"]
            time.sleep(0.2)
    finally:
        server.terminate()
        server.wait()
    assert [study["study_name"] for study in studies] == ["toy"]
    assert studies[0]["directions"] == ["maximize", "minimize"]


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return int(own.getsockname()[1])


CTRL_C = """
import signal, sys, threading, time, _thread
import learnforge as lf
from learnforge import hookimpl

class Interrupt:
    @hookimpl
    def learnforge_trial_finished(self, stage, trial):
        print("told", flush=True)
        threading.Timer(0.1, _thread.interrupt_main).start()  # while the next ones run

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job inherits "ignore"
    task = {"use": "digits", "classes": [0, 1]}
    search = {
        "kind": "search", "use": "random", "space": {"use": "residual", "stages": 2, "max_width": 16},
        "trials": 4, "train": {"epochs": 60}, "retrain": {"epochs": 1},
    }
    recipe = {"run": {"device": "cpu"}, "task": task, "stage": [search]}
    hooks = [Interrupt()] if sys.argv[2] == "interrupt" else []
    try:
        lf.run(recipe, sys.argv[1], workers=2, hooks=hooks)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_the_search_goes_on(tmp_path: Path) -> None:
    """Interrupted while two processes train, it ends within seconds and leaves none; what was told is
    kept.
    """
    script = tmp_path / "search.py"
    script.write_text(CTRL_C)

    def run(mode: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(tmp_path / "run"), mode]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    stopped = run("interrupt")
    assert stopped.returncode == 130, stopped.stderr
    with open_study(tmp_path / "run" / "search" / "study.db", "search", ["maximize"]) as study:
        told = [t for t in study.trials if t.state.is_finished()]
        running = [t for t in study.trials if not t.state.is_finished()]
    assert told
    assert running
    workers = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(script) not in workers
    whole = run("finish")
    assert whole.returncode == 0, whole.stderr
    with open_study(tmp_path / "run" / "search" / "study.db", "search", ["maximize"]) as study:
        assert {t.number for t in told} < {t.number for t in study.trials}
        assert all(t.state.is_finished() for t in study.trials)
        by_number = {t.number: t for t in study.trials}
    # the interruption may come while a trial still makes its choices; those made are kept
    assert all(t.params.items() <= by_number[t.number].params.items() for t in running)


def test_a_report_is_written_while_a_search_goes_on(tmp_path: Path) -> None:
    """Cut off after two trials, the run's report shows what they found."""
    seen: list[int] = []

    class Stop:
        @hookimpl
        def learnforge_trial_finished(self, trial: Mapping[str, Any]) -> None:
            seen.append(trial["number"])
            if len(seen) == 2:
                shown = write_report(tmp_path)
                assert not shown.stages[0].is_finished

    search = {"kind": "search", "use": "random", "space": {"use": "mlp"}, "trials": 3, "train": {"epochs": 1}}
    recipe = {"run": {"device": "cpu"}, "task": {"use": "digits", "classes": [0, 1]}, "stage": [search]}
    lf.run(recipe, tmp_path, hooks=[Stop()])
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## search: not finished" in text
    assert "Designs: 2 evaluated" in text


# The stage


@pytest.fixture
def make_stage(toy_plugins: Plugins) -> Callable[..., SearchStage]:
    """Make a search stage over the toy space."""

    def make(**settings: Any) -> SearchStage:
        options = {"train": QUICK, "method": toy_plugins.load("searcher", "random")(), **settings}
        return SearchStage(name="stage", space=toy_plugins.load("space", "toy")(), **options)

    return make


def record(number: int, accuracy: float, parameters: float) -> Record:
    """Make an evaluated record."""
    metrics = {"accuracy": accuracy, "parameters": parameters}
    return Record(number, str(number), {"width": 1, "act": "relu"}, "evaluated", metrics)


def test_front_and_picks_by_hand(make_stage: Callable[..., SearchStage]) -> None:
    """Of five designs three are not dominated; `pick` orders them by objective or by distance to the best."""
    records = [
        record(0, 0.9, 1000),
        record(1, 0.8, 200),
        record(2, 0.4, 100),
        record(3, 0.7, 300),
        record(4, 0.9, 1100),
    ]
    stage = make_stage(objectives=("accuracy", "-parameters"))
    front = stage._front(records)
    assert [r.number for r in front] == [0, 1, 2]
    assert [r.number for r in stage._order(records, front)] == [0, 1, 2, 3, 4]
    small = make_stage(objectives=("accuracy", "-parameters"), pick="parameters")
    assert [r.number for r in small._order(records, front)][:3] == [2, 1, 0]
    # scaled losses: (0, 1), (0.2, 1/9), (1, 0); squared distances 1, 0.052, 1
    knee = make_stage(objectives=("accuracy", "-parameters"), pick="knee")
    assert [r.number for r in knee._order(records, front)][:3] == [1, 0, 2]


def test_check_names_what_is_unknown(make_stage: Callable[..., SearchStage], task: Task) -> None:
    """Unknown objectives, limits and picks are all reported, each with its path and the nearest name."""
    stage = make_stage(objectives=("acuracy", "-parameters"), limits={"parameter": 10}, pick="macs")
    problems = {p.path: p.message for p in stage.check(task, {}, Plugins())}
    assert set(problems) == {"objectives", "limits.parameter", "pick"}
    assert problems["objectives"].startswith("unknown metric 'acuracy'; did you mean 'accuracy'?")
    assert problems["limits.parameter"].startswith("unknown cost; did you mean 'parameters'?")
    assert problems["pick"].startswith("must be an objective or `knee`, got 'macs'")


class OneObjective(Searcher):
    """A searcher that takes one objective."""

    supports_many_objectives: ClassVar[bool] = False

    def sampler(
        self, seed: int, directions: Sequence[str], view: View | None = None
    ) -> optuna.samplers.BaseSampler:
        return optuna.samplers.RandomSampler(seed)


def test_check_holds_objectives_against_the_searcher(
    make_stage: Callable[..., SearchStage], task: Task
) -> None:
    """A searcher of one objective is refused two of them before anything is trained."""
    stage = evolve(make_stage(objectives=("accuracy", "-parameters")), method=OneObjective())
    (problem,) = stage.check(task, {}, Plugins())
    assert str(problem) == "objectives: OneObjective takes one objective, got 2; choose another searcher"
    assert evolve(stage, objectives=("accuracy",)).check(task, {}, Plugins()) == []


def test_the_best_designs_are_trained_again(
    make_stage: Callable[..., SearchStage],
    task: Task,
    make_context: MakeContext,
    toy_plugins: Plugins,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`keep` designs are trained as `retrain` says, and the one that is then best is handed on."""
    longer, trained = Train(epochs=4, batch_size=30, learning_rate=1e-2), []
    train_on_labels = stage_module.train_on_labels

    def spy(network: Any, task: Any, settings: Train, context: Any, part: str) -> Any:
        assert settings is longer
        history = train_on_labels(network, task, settings, context, part)
        trained.append((history[-1]["accuracy"], network, part))
        return history

    monkeypatch.setattr(stage_module, "train_on_labels", spy)
    context = evolve(make_context(), plugins=toy_plugins)
    artifact = make_stage(trials=4, keep=3, retrain=longer).run(task, {}, context)
    assert len(trained) == 3
    best = max(trained, key=lambda entry: entry[0])
    assert artifact.metrics["validation_accuracy"] == best[0]
    network = artifact.network(toy_plugins)
    assert all(torch.equal(t, best[1].state_dict()[n]) for n, t in network.state_dict().items())
    told = artifact.metrics["history"]
    ranked = sorted(told, key=lambda entry: -entry["metrics"]["accuracy"])[:3]
    assert [part for _, _, part in trained] == [f"trial {entry['number']} again" for entry in ranked]
    assert artifact.metrics["trials"] == 4
    assert artifact.metrics["front"] == [
        e["number"] for e in told if e["metrics"]["accuracy"] == ranked[0]["metrics"]["accuracy"]
    ]
    assert artifact.provenance.origins == set(task.info.origins)


def test_a_design_that_cannot_be_built_is_refused_alone(search: Any) -> None:
    """A space that fails for one design loses that design; the search goes on."""
    found, told = search(trials=9, faults={1: "unbuildable"}, searcher=("random", {}))
    assert {record.design["width"] for record in found} == {2, 3, 4}
    reasons = {record["reason"] for record in told if record["state"] == "refused"}
    (reason,) = reasons
    assert reason.startswith("cannot be built by ")
    assert reason.endswith(": ValueError: no such network")


def test_a_diverging_retraining_makes_place_for_the_next(
    make_stage: Callable[..., SearchStage],
    task: Task,
    make_context: MakeContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The best designs are retrained until `keep` are done; only if all diverge does the stage fail."""
    records = [Record(number, str(number), {}) for number in range(3)]
    tried: list[int] = []

    def retrain(self: SearchStage, record: Record, task: Task, context: Context) -> Any:
        tried.append(record.number)
        if record.number in bad:
            raise DivergedError(1, 1, 1)
        return record, None, None

    monkeypatch.setattr(SearchStage, "_retrain", retrain)
    stage, bad = make_stage(keep=2), {0}
    assert [r.number for r, _, _ in stage._retrain_best(records, task, make_context(None))] == [1, 2]
    stage, bad = make_stage(keep=1), {1}
    tried.clear()
    stage._retrain_best(records, task, make_context(None))
    assert tried == [0]
    bad = {0, 1, 2}
    with pytest.raises(DivergedError):
        stage._retrain_best(records, task, make_context(None))


def test_by_default_retraining_takes_three_times_as_long(make_stage: Callable[..., SearchStage]) -> None:
    """Without `retrain`, designs are retrained as in trials, with three times the epochs."""
    assert make_stage().longer == evolve(QUICK, epochs=3)


def test_a_stage_resumes_to_the_same_artifact(
    make_stage: Callable[..., SearchStage],
    task: Task,
    make_context: MakeContext,
    toy_plugins: Plugins,
    tmp_path: Path,
) -> None:
    """A stage cut off after two trials hands on the same weights as one that was not."""
    seen: list[str] = []

    def stop(event: str, **data: Any) -> None:
        seen.append(event)
        if len(seen) == 2:
            raise Kill

    stage = make_stage(trials=3)
    whole = stage.run(task, {}, evolve(make_context(None), plugins=toy_plugins))
    with pytest.raises(Kill):
        stage.run(task, {}, evolve(make_context(tmp_path, emit=stop), plugins=toy_plugins))
    again = stage.run(task, {}, evolve(make_context(tmp_path), plugins=toy_plugins))
    assert whole.weights is not None
    assert again.weights is not None
    assert all(torch.equal(tensor, again.weights[name]) for name, tensor in whole.weights.items())
    assert timeless(again.metrics["history"]) == timeless(whole.metrics["history"])


# Order among several objectives


def test_non_dominated_rank_by_hand() -> None:
    """Peeling: (1, 4), (2, 2) and (4, 1) are rank 0, (3, 3) rank 1, (5, 5) rank 2; equals share a rank."""
    losses = np.array([[1, 4], [3, 3], [2, 2], [5, 5], [4, 1], [3, 3]], dtype=float)
    assert non_dominated_rank(losses).tolist() == [0, 1, 0, 2, 0, 1]
    assert non_dominated_rank(losses[:, :1]).tolist() == [0, 2, 1, 4, 3, 2]


def test_crowding_distance_by_hand() -> None:
    """The ends are infinitely far; the middle gets its neighbours' distance over the spread, summed."""
    losses = np.array([[0.0, 10.0], [1.0, 6.0], [3.0, 2.0], [4.0, 0.0]])
    assert crowding_distance(losses).tolist() == [math.inf, 3 / 4 + 8 / 10, 3 / 4 + 6 / 10, math.inf]
    assert crowding_distance(np.ones((2, 2))).tolist() == [math.inf, math.inf]


def test_best_first_orders_by_rank_crowding_and_age() -> None:
    """Rank decides, then the least crowded, then the older; to maximise is to negate."""
    values = [[0.9, 10.0], [0.8, 6.0], [0.6, 2.0], [0.5, 0.0], [0.5, 9.0]]
    assert best_first(values, ["maximize", "minimize"]) == [0, 3, 1, 2, 4]
    assert best_first([[1.0], [3.0], [3.0], [2.0]], ["maximize"]) == [1, 2, 3, 0]
    assert to_losses([[1.0, 2.0]], ["maximize", "minimize"]).tolist() == [[-1.0, 2.0]]


# Samplers


class Recording(HistorySampler):
    """Proposes the best trial's choices with one changed, as an author would."""

    def propose(
        self, history: Sequence[Any], rng: np.random.Generator, directions: Sequence[str]
    ) -> Mapping[str, Any]:
        if not history:
            return {}
        best = history[best_first([t.values for t in history], directions)[0]]
        return mutate(best.params, best.distributions, rng)


def objective(trial: optuna.trial.Trial) -> float:
    """A tree of choices: `depth` says how many numbers there are."""
    depth = trial.suggest_int("depth", 1, 3)
    return sum(trial.suggest_float(f"x{i}", 0.1, 10, log=True) for i in range(depth))


def test_choices_are_pure_in_history_seed_and_number() -> None:
    """A fresh sampler at every trial gives the same choices as one sampler, another seed others."""

    def run(seed: int, is_fresh: bool) -> list[dict[str, Any]]:
        study = optuna.create_study(sampler=Recording(seed))
        for _ in range(8):
            if is_fresh:
                study.sampler = Recording(seed)
                np.random.default_rng(1).random()
            trial = study.ask()
            study.tell(trial, objective(trial))
        return [trial.params for trial in study.trials]

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    one = run(3, False)
    assert run(3, True) == one
    assert run(4, False) != one
    optuna.logging.set_verbosity(verbosity)


def test_a_proposal_out_of_range_is_drawn_instead() -> None:
    """A proposed value that a distribution cannot give, and a missing one, are drawn uniformly."""

    class Wild(HistorySampler):
        def propose(self, history: Any, rng: Any, directions: Any) -> Mapping[str, Any]:
            return {"a": 99, "b": "z", "c": 2, "nobody": 1}

    trial = optuna.create_study(sampler=Wild(0)).ask()
    assert trial.suggest_int("a", 0, 3) in range(4)
    assert trial.suggest_categorical("b", ["x", "y"]) in ("x", "y")
    assert trial.suggest_int("c", 0, 3) == 2
    assert 0 <= trial.suggest_float("d", 0, 1) <= 1


@pytest.mark.parametrize(
    ("distribution", "value", "is_inside"),
    [
        (IntDistribution(0, 8, step=2), 4, True),
        (IntDistribution(0, 8, step=2), 5, False),
        (IntDistribution(0, 8), True, False),
        (FloatDistribution(0, 1), 1.0, True),
        (FloatDistribution(0, 1), "1", False),
        (FloatDistribution(0, 1), None, False),
        (CategoricalDistribution([None, "a"]), None, True),
    ],
)
def test_contains(distribution: Any, value: Any, is_inside: bool) -> None:
    """A value is inside when the distribution can give it, in its own type."""
    assert contains(distribution, value) is is_inside


@pytest.mark.parametrize(
    ("distribution", "shares"),
    [
        (CategoricalDistribution(["a", "b", None]), {"a": 1 / 3, "b": 1 / 3, None: 1 / 3}),
        (IntDistribution(2, 8, step=3), {2: 1 / 3, 5: 1 / 3, 8: 1 / 3}),
        # logarithmic: k has the share of [k - 1/2, k + 1/2] in the logarithm
        (IntDistribution(1, 3, log=True), {k: math.log((2 * k + 1) / (2 * k - 1), 7) for k in (1, 2, 3)}),
        (FloatDistribution(0, 1, step=0.5), {0.0: 1 / 3, 0.5: 1 / 3, 1.0: 1 / 3}),
    ],
)
def test_draws_are_uniform(distribution: Any, shares: dict[Any, float]) -> None:
    """Every value comes up with its share, ends included, within four standard deviations."""
    rng, count = generator(0, "test"), 4000
    found = Counter(draw(distribution, rng) for _ in range(count))
    assert set(found) == set(shares)
    for value, share in shares.items():
        assert abs(found[value] - count * share) < 4 * math.sqrt(count * share * (1 - share))


def test_last_step_is_inside() -> None:
    """Steps that binary fractions cannot hold do not lead beyond the end of the range."""
    distribution, rng = FloatDistribution(-10.2, 10.2, step=0.1), generator(0, "test")
    values = [draw(distribution, rng) for _ in range(2000)]
    assert (min(values), max(values)) == (-10.2, 10.2)


@pytest.mark.parametrize("log", [False, True])
def test_draws_of_numbers_are_uniform(log: bool) -> None:
    """The largest gap between the draws and the uniform law is under Kolmogorov's 0.1 % bound."""
    distribution, count = FloatDistribution(0.01, 100, log=log), 4000
    rng = generator(1, "test")
    values = np.sort([draw(distribution, rng) for _ in range(count)])
    place = (np.log10(values) + 2) / 4 if log else (values - 0.01) / 99.99
    assert np.abs(place - (np.arange(count) + 0.5) / count).max() < 1.95 / math.sqrt(count)


def test_mutation_changes_exactly_one_choice() -> None:
    """One free choice changes, to a value of its range; a choice of a single value never does."""
    distributions = {
        "kind": CategoricalDistribution(["a", "b", "c"]),
        "width": IntDistribution(8, 64, step=8),
        "depth": IntDistribution(1, 64, log=True),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "drop": FloatDistribution(0.0, 0.5),
        "only": CategoricalDistribution(["x"]),
    }
    choices = {"kind": "a", "width": 8, "depth": 64, "rate": 1.0, "drop": 0.0, "only": "x"}
    rng, changed = generator(0, "mutate"), Counter()
    for _ in range(500):
        child = mutate(choices, distributions, rng)
        different = [name for name in choices if child[name] != choices[name]]
        assert len(different) == 1
        assert contains(distributions[different[0]], child[different[0]])
        changed[different[0]] += 1
    assert set(changed) == set(choices) - {"only"}
    assert min(changed.values()) > 60
    assert mutate({"only": "x"}, {"only": distributions["only"]}, rng) == {"only": "x"}


def test_a_view_offers_candidates_of_the_space(toy_plugins: Plugins) -> None:
    """Random, completed and mutated candidates carry choices, design and key that belong together."""
    view, rng = SpaceView(toy_plugins.load("space", "toy")()), generator(0, "view")
    candidate = view.complete({"width": 3}, rng)
    assert candidate.choices["width"] == candidate.design["width"] == 3
    assert view.complete(candidate.choices, rng) == candidate
    other = view.mutate(candidate, rng)
    assert other.key != candidate.key
    assert {view.random(rng).design["width"] for _ in range(60)} == {1, 2, 3, 4}


def test_a_searcher_is_an_abstract_class() -> None:
    """A searcher without `sampler` cannot be made."""
    with pytest.raises(TypeError, match="abstract"):
        Searcher()  # type: ignore[abstract]


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_study_is_named(tmp_path: Path, damage: str) -> None:
    """With the file, and what can be done about it."""
    path = tmp_path / "study.db"
    with open_study(path, "toy", ["maximize"]) as study:
        for _ in range(50):
            study.tell(study.ask(), 1.0)
    for leftover in tmp_path.glob("study.db-*"):
        leftover.unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 3] if damage == "cut" else b"not a database" * 100)
    with (
        pytest.raises(lf.StageError, match=r"study.db cannot be read as the study of a search: .*remove it"),
        open_study(path, "toy", ["maximize"]) as study,
    ):
        study.tell(study.ask(), 1.0)


@pytest.mark.parametrize(
    ("words", "way_out"),
    [
        ("database or disk is full", "make room"),
        ("database is locked", "end the other process that uses it"),
        ("attempt to write a readonly database", "let it be written"),
    ],
)
def test_what_keeps_a_study_from_being_written_is_named(tmp_path: Path, words: str, way_out: str) -> None:
    """SQLite's own words, what to do, and that the search goes on from there: nothing is to be removed."""
    error = sqlite3.OperationalError(words)
    with (
        pytest.raises(
            lf.StageError, match=rf"study.db cannot be used: {words}; {way_out}, and the search goes"
        ),
        open_study(tmp_path / "study.db", "toy", ["maximize"]),
    ):
        raise sqlalchemy.exc.OperationalError("INSERT", {}, error)
