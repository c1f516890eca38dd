"""The duties of a kind of stage, in a short run of it alone."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import attrs
import torch

import learnforge.api
from learnforge.artifact import Artifact, from_model, load_artifact
from learnforge.errors import Problem, RecipeError
from learnforge.kinds.stage import Stage
from learnforge.options.structure import option_key
from learnforge.plugins.choice import PluginChoice
from learnforge.plugins.registry import Plugins
from learnforge.randomness import seeded
from learnforge.recipe import parse_recipe
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import require

_TASK = {"use": "digits", "classes": [0, 1]}


class StageSuite(MethodSuite):
    """Checks of a kind of stage.

    Args:
        method: The stage's class; its plugin must be installed, or in `files`.
        options: Keys of its `[[stage]]` table beside `kind`. An input that is not among them is a
            small network.
        files: Plugin files to load.
    """

    base: ClassVar[type] = Stage
    kind: ClassVar[str] = "stage"
    needs_reference: ClassVar[bool] = False
    files: ClassVar[tuple[Path, ...]] = ()

    def recipe(self, **changes: Any) -> dict[str, Any]:
        """Return a recipe of this stage alone."""
        stage = {"kind": self.method.kind, "name": "stage", **self._inputs(), **self.options, **changes}
        return {
            "run": {"name": "conformance", "device": "cpu"},
            "task": _TASK,
            "stage": [stage],
        }

    def result(self) -> Any:
        return self._run(None).weights

    def test_kind_is_named(self) -> None:
        """It says its kind, by which it is loaded, and which methods it takes."""
        require(self.method.kind, f"{self.method.__name__} must have `kind: ClassVar[str]`")
        loaded = Plugins(PluginChoice(files=self.files)).load("stage", self.method.kind)
        require(loaded is self.method, f"stage.{self.method.kind} must be {self.method}, is {loaded}")

    def test_fingerprint_is_plain_data(self) -> None:
        """What its result depends on can be written as JSON, and is the same each time."""
        data = [json.dumps(self._parsed().fingerprint_data()) for _ in range(2)]
        require(data[0] == data[1], "fingerprint_data must be a function of the settings")

    def test_artifact_loads_again(self) -> None:
        """What it hands on is on the disk, and is loaded with the same weights."""
        with tempfile.TemporaryDirectory() as folder:
            made = self._run(Path(folder))
            loaded = load_artifact(Path(folder) / "stage")
        require(made.weights is not None and loaded.weights is not None, "the artifact must have weights")
        same = all(
            torch.equal(tensor, (loaded.weights or {})[n]) for n, tensor in (made.weights or {}).items()
        )
        require(same, "the artifact must be loaded with the weights that it was saved with")

    def test_finished_stage_is_kept(self) -> None:
        """Run again in its folder with the same settings, it is not run but kept."""
        with tempfile.TemporaryDirectory() as folder:
            self._run(Path(folder))
            choice = PluginChoice(files=self.files)
            again = learnforge.api.run(self.recipe(), Path(folder), plugins=choice)
        require(again.stages[0].state == "kept", f"must be kept, is {again.stages[0].state}")

    def _refuses(self, name: str, value: Any, words: str) -> None:
        try:
            self._parsed(**{name: value})
        except RecipeError as error:
            faults = [problem.message for problem in error.problems if problem.path == f"stage.stage.{name}"]
            require(
                any(words in fault for fault in faults), f"{name} = {value!r} must be refused, got {error}"
            )
            return
        raise AssertionError(f"{self.method.__name__}: {name} = {value!r} must be refused")

    def _inputs(self) -> dict[str, Any]:
        """Return a small network, with weights and on the disk, for every input."""
        fields = [f for f in attrs.fields(self.method) if f.metadata.get("reference")]
        return {option_key(field): _network_folder() for field in fields}

    def _parsed(self, **changes: Any) -> Stage:
        recipe = self.recipe(**changes)
        return parse_recipe(recipe, Plugins(PluginChoice(files=self.files))).stages[0]

    def _run(self, folder: Path | None) -> Artifact:
        run = learnforge.api.run(self.recipe(), folder, plugins=PluginChoice(files=self.files))
        return run.artifacts["stage"]


@functools.cache
def _network_folder() -> str:
    """Save a small network for the suite's task, and return its folder, which ends with this process."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    plugins, problems = Plugins(), list[Problem]()
    task = plugins.resolve("task", _TASK, "task", problems).load().info
    model = plugins.resolve("model", {"use": "conv4", "width": 4, "blocks": 1}, "model", problems)
    with seeded(0):
        network = model.build(task)
    from_model(model, task).with_state(network).save(Path(folder) / "network")
    return str(Path(folder) / "network")
