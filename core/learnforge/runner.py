"""Runs a recipe in a folder: keeps what is finished, goes on with what was cut off, fires the hooks.

    runs/digits/
      recipe.toml  run.json  events.jsonl  report.html  report.md
      search/   artifact.json  weights.safetensors  metrics.json  stage.json  study.db
      distill/  artifact.json  weights.safetensors  metrics.json  stage.json  checkpoint/ (while it trains)

A stage's fingerprint covers all that its result depends on: settings, methods' code, data, the fingerprints
of its inputs, the plugins that change batches or designs, and the seed. Equal fingerprint and
finished: kept. Equal and unfinished: continued. Different: run again, after asking if it was finished.
"""

from __future__ import annotations

import os
import time
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs import evolve, field, frozen

from learnforge.artifact import Artifact, load_artifact
from learnforge.check import Tasks, check_recipe, place_of, resolve_inputs, with_lineage
from learnforge.context import Context, PeakMemory, Progress, Silence, choose_device
from learnforge.errors import (
    ArtifactError,
    DamageWarning,
    DivergedError,
    PluginError,
    PluginWarning,
    RunError,
    StageError,
)
from learnforge.files import read_record, refusal, remove, vet_folder, write_json
from learnforge.fingerprints import describe_stage, fingerprints
from learnforge.kinds.stage import Stage
from learnforge.kinds.task import describe_task
from learnforge.plugins.identity import identify, spell
from learnforge.plugins.registry import Plugins
from learnforge.randomness import derive, preserved, read_settings, restore_settings
from learnforge.rebuilding import require_rebuilt, save_proved
from learnforge.recipe import Recipe
from learnforge.record import Run, StageRecord, copy_for_listeners, loggable, versions
from learnforge.runlog import EventLog, lock


@frozen(eq=False)
class Options:
    """How a run is carried out; results don't depend on it.

    Args:
        folder: Where the run is kept; None keeps nothing.
        workers: Trials at a time in a search.
        cache_folder: Folder for what runs share and can compute again; `.cache` beside the run's folder
            by default.
        progress: Shows what is going on.
        may_overwrite: Asked with the names of finished stages that would be run anew; False refuses.
    """

    folder: Path | None = None
    workers: int = 1
    cache_folder: Path | None = None
    progress: Progress = field(factory=Silence)
    may_overwrite: Callable[[Sequence[str]], bool] = lambda names: False


def run_recipe(recipe: Recipe, plugins: Plugins, options: Options, tasks: Tasks | None = None) -> Run:
    """Carry out a recipe, going on from what its folder already holds.

    Raises:
        RecipeError: Something in the recipe is wrong; nothing was computed.
        RunError: The folder cannot be used, or finished stages would have to be overwritten.
        StageError: A stage cannot finish; the finished ones stay.
    """
    tasks = tasks or Tasks()
    device = choose_device(recipe.run.device)
    settings = read_settings()
    check_recipe(recipe, plugins, tasks)
    _put_back(settings, "the check of the recipe")
    with ExitStack() as stack:
        log = None
        if options.folder is not None:
            _check_folder(options.folder, recipe)
            vet_folder(options.folder)
            stack.enter_context(lock(options.folder))
            log = stack.enter_context(EventLog(options.folder / "events.jsonl"))
        if recipe.run.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is reproducible only with it
            torch.use_deterministic_algorithms(True)
            stack.callback(restore_settings, settings)
        run = Run(options.folder, recipe, recipe.run.seed, str(device), plugins)
        return _Runner(run, tasks, options, device, log).run()


def show_run(run: Run) -> None:
    """Let plugins show a run that has ended, each with a copy; one at fault is named, and nothing more."""
    with preserved():
        run.plugins.hook.learnforge_show_run(run=copy_for_listeners(run))


def offered_progress(plugins: Plugins, is_command: bool = False) -> Progress:
    """Return what a plugin offers to show how far a run is; where none does, nothing is shown."""
    plugins.load_hooks("progress")
    return plugins.hook.learnforge_progress(is_command=is_command) or Silence()


class _Runner:
    """One attempt at a run, under its lock."""

    def __init__(
        self, current: Run, tasks: Tasks, options: Options, device: torch.device, log: EventLog | None
    ):
        self.current, self.tasks, self.options, self.device, self.log = current, tasks, options, device, log
        self.plugins, self.recipe, self.folder = current.plugins, current.recipe, options.folder

    def run(self) -> Run:
        run = self.current
        prints = fingerprints(self.recipe, self.plugins, self.tasks)
        self._keep_or_clear(prints)
        run.write()
        self.emit("run_started", run=run)
        try:
            for position, stage in enumerate(self.recipe.stages):
                if stage.name not in run.artifacts:
                    run.artifacts[stage.name] = self._run_stage(position, stage, prints)
                    run.write()
            run.state = "finished"
        # Ctrl-C too: who listens must hear how it ended
        except BaseException as error:
            run.state = "failed"
            for record in run.stages:
                record.state = "failed" if record.state == "running" else record.state
            with suppress(RunError, PluginError):  # a full disk, or a strict plugin, must not hide the error
                self.emit("run_failed", run=run, error=error)
            with suppress(RunError):
                run.write()
            raise
        self.emit("run_finished", run=run)
        run.write()
        return run

    def emit(self, event: str, **data: Any) -> None:
        """Fire the hook of an event and write it to the log."""
        # the log first: it says what happened even where a strict plugin ends the run
        if self.log is not None:
            self.log.write(event, {name: loggable(value) for name, value in data.items()})
        hook = getattr(self.plugins.hook, f"learnforge_{event}")
        if hook.get_hookimpls():
            with preserved():  # who only listens cannot change a run: neither its random numbers nor its data
                hook(**{name: copy_for_listeners(value) for name, value in data.items()})

    def _keep_or_clear(self, prints: Mapping[str, str]) -> None:
        """Take over finished stages, leave unfinished ones to be continued, and clear those that changed."""
        lost: dict[str, str] = {}
        before = self._read_records()
        for stage in self.recipe.stages:
            method = spell(stage.method) if stage.method is not None else None
            record = StageRecord(stage.name, stage.kind, method, prints[stage.name])
            record.parts = describe_stage(self.recipe, stage)
            record.task = describe_task(self.tasks.load(self.recipe.task_of(stage)))
            self.current.stages.append(record)
            if self.folder is None:
                continue
            if not (self.folder / stage.name / "artifact.json").exists():
                continue
            try:
                found = load_artifact(self.folder / stage.name)
            except ArtifactError as error:
                lost[stage.name] = str(error)
                continue
            if found.provenance.fingerprint == prints[stage.name]:
                self.current.artifacts[stage.name] = found
                record.state, record.seconds = "kept", float(found.metrics.get("seconds", 0.0))
                earlier = before.get(stage.name, {})
                record.made_with = earlier.get("made_with", {})
                record.peak_mebibytes = earlier.get("peak_mebibytes")
            else:
                lost[stage.name] = "what it depends on has changed"
        if lost and not self.options.may_overwrite(list(lost)):
            reasons = "".join(f"\n  {name}: {reason}" for name, reason in lost.items())
            raise RunError(
                f"{self.folder}: finished stages would be run again:{reasons}\nPass `--overwrite` (in Python "
                "`overwrite=True`), or choose another run folder."
            )
        if self.folder is not None:
            for stage in self.recipe.stages:
                if stage.name not in self.current.artifacts:
                    self._prepare_folder(self.folder / stage.name, prints[stage.name])

    def _conditions(self) -> dict[str, Any]:
        """Return what a stage's bits can depend on beside its fingerprint."""
        return {
            "versions": versions(),
            "threads": torch.get_num_threads(),
            "device": self.current.device,
            "workers": self.options.workers,
            "loaded": self.plugins.record()["loaded"],
        }

    def _read_records(self) -> dict[str, dict[str, Any]]:
        """Return the records of an earlier attempt, {name of a stage: record}."""
        if self.folder is None or not (self.folder / "run.json").exists():
            return {}
        try:
            return {stage["name"]: stage for stage in read_record(self.folder / "run.json")["stages"]}
        except RunError as error:  # the artifacts say by themselves what they are
            warnings.warn(f"{error}; it is written anew", DamageWarning, stacklevel=2)
            return {}

    def _prepare_folder(self, folder: Path, print_: str) -> None:
        """Empty a stage's folder, unless what it holds was begun with the same fingerprint."""
        note = folder / "stage.json"
        try:
            if note.exists() and f'"{print_}"'.encode() in note.read_bytes():
                return
            held = [path for path in folder.iterdir() if path != note] if folder.is_dir() else []
            # a kill in the middle of a write leaves a .tmp file, which is nobody's work
            if not note.exists() and any(path.suffix != ".tmp" for path in held):
                raise RunError(
                    f"{folder} must be empty or a stage's folder of an earlier run, but it holds files that "
                    f"no run made. Choose another run folder with `--run`, or move them away."
                )
            # the description first; the note is only replaced: after a kill here the folder is still known
            for path in sorted(held, key=lambda path: path.name != "artifact.json"):
                remove(path)
        except OSError as error:
            raise refusal(folder, error) from error
        write_json(note, {"fingerprint": print_})

    def _run_stage(self, position: int, stage: Stage, prints: Mapping[str, str]) -> Artifact:
        record = self.current.stages[position]
        task = self.tasks.load(self.recipe.task_of(stage))
        inputs = resolve_inputs(stage, position, self.recipe, task, self.current.artifacts)
        context = self._context(stage)
        record.state = "running"
        self.emit("stage_started", stage=stage.name, kind=stage.kind)
        start, memory, settings = time.perf_counter(), PeakMemory(self.device), read_settings()
        try:
            if stage.tune is None:
                artifact = stage.run(task, inputs, context)
            else:
                from learnforge.kinds.tuner import load_tuner  # most recipes need none of it

                artifact = load_tuner(self.plugins).run(stage, task, inputs, context)
        except DivergedError as error:
            raise StageError(f"stage {stage.name!r}: {error}") from error
        except Exception as error:
            error.add_note(place_of(stage, error))
            raise
        finally:
            _put_back(settings, f"stage {stage.name!r}")
        record.seconds = time.perf_counter() - start
        artifact = with_lineage(artifact, task, inputs)
        record.peak_mebibytes = memory.mebibytes()
        artifact = self._stamp(artifact, stage, prints[stage.name], inputs, record.seconds)
        note = context.folder / "stage.json" if context.folder is not None else None
        if note is not None and not note.exists():  # somebody took the folder away while the stage ran
            write_json(note, {"fingerprint": prints[stage.name]})
        try:
            if context.folder is None:
                require_rebuilt(artifact, self.plugins, is_kept=False)
            else:
                # in this order: a kill in between leaves a whole artifact and a checkpoint that nobody reads
                save_proved(artifact, context.folder, self.plugins)
                context.clear_checkpoints()
        except StageError as error:
            error.add_note(place_of(stage, error))
            raise
        kept = [self.folder / name / "artifact.json" for name in self.current.artifacts if self.folder]
        if gone := [str(file.parent) for file in kept if not file.exists()]:
            raise RunError(f"{', '.join(gone)}: taken away while the run went on; run again to make it anew")
        artifact = evolve(artifact, made=None)
        record.state = "finished"
        record.made_with = self._conditions()
        self.emit("stage_finished", stage=stage.name, artifact=artifact)
        return artifact

    def _context(self, stage: Stage) -> Context:
        executor = "serial" if self.options.workers == 1 else "processes"
        return Context(
            stage=stage.name,
            # by name, not by position: a stage put in before it changes none of its bits
            seed=derive(self.current.seed, "stage", stage.name),
            device=self.device,
            plugins=self.plugins,
            folder=self.folder / stage.name if self.folder is not None else None,
            cache_folder=self.options.cache_folder
            or (self.folder.parent / ".cache" if self.folder else None),
            executor=self.plugins.load("executor", executor)(),
            workers=self.options.workers,
            deterministic=self.recipe.run.deterministic,
            progress=self.options.progress,
            emit=self.emit,
        )

    def _stamp(
        self, artifact: Artifact, stage: Stage, print_: str, inputs: Mapping[str, Artifact], seconds: float
    ) -> Artifact:
        provenance = evolve(
            artifact.provenance,
            stage=stage.name,
            kind=stage.kind,
            method=spell(stage.method) if stage.method is not None else {},
            identity=attrs.asdict(identify(stage.method)) if stage.method is not None else {},
            seed=self.current.seed,
            fingerprint=print_,
            parents=tuple(parent.provenance.fingerprint for parent in inputs.values()),
        )
        return evolve(artifact, provenance=provenance, metrics={**artifact.metrics, "seconds": seconds})


def _check_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder in which somebody else's files lie, such as a network that `adapt` made, and for a call
    from Python, which is a recipe without stages, that of a recipe's run, whose record it would replace.
    """
    try:
        held = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        kept = folder / "recipe.toml"
        is_recipes = kept.is_file() and "stage" in tomllib.loads(kept.read_text(encoding="utf-8"))
    except OSError as error:
        raise refusal(folder, error) from error
    except ValueError:  # cut off in its writing: a run of any sort
        is_recipes = False
    if is_recipes and "stage" not in recipe.data:
        raise RunError(f"{folder} is the folder of a recipe's run, which would be lost; choose a new folder")
    if held and not set(held) & {".lock", "events.jsonl", "run.json"}:
        what = "a network" if "artifact.json" in held else f"{held[0]!r}"
        raise RunError(
            f"{folder} must be new, empty or the folder of an earlier run, but it holds {what} that no run "
            "put there. Choose another folder for the run."
        )


def _put_back(settings: Mapping[str, Any], where: str) -> None:
    """Put back what is global in torch, and tell what had changed."""
    if changed := ", ".join(restore_settings(settings)):
        words = f"{where}: a plugin changes {changed} of torch, and must not. It is put back."
        warnings.warn(words, PluginWarning, stacklevel=3)
