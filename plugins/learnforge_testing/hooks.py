"""The duties of a plugin that brings hooks and no method, such as a tracker or a veto."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, ClassVar

import learnforge.api
from learnforge import hookspecs
from learnforge.errors import StageError
from learnforge.plugins.choice import PluginChoice, is_usable
from learnforge.plugins.registry import Plugins
from learnforge.record import Run
from learnforge_plugins.reports.plugin import report_sections
from learnforge_testing.elsewhere import digest
from learnforge_testing.suite import Suite, needs, require

RECIPE: dict[str, Any] = {
    "run": {"name": "conformance", "device": "cpu"},
    "task": {"use": "digits", "classes": [0, 1]},
    "stage": [
        {
            "kind": "search",
            "use": "random",
            "space": {"use": "residual", "stages": 1, "blocks": 1, "max_width": 8},
            "trials": 2,
            "train": {"epochs": 1},
            "retrain": {"epochs": 1},
        },
        {"kind": "transfer", "use": "fine-tune", "options": {"head_epochs": 0}, "train": {"epochs": 1}},
    ],
}
"""A run of seconds in which every hook but `learnforge_run_failed` is called."""


class HooksSuite(Suite):
    """Checks of a hooks-only plugin, in a short run.

    Args:
        method: Name of the installed plugin, as in `[plugins] enable`; with `files`, the file's stem, or the
            name of a class in it. `options` are those of `[plugins.NAME]`.
        files: Plugin files to load.
    """

    method: ClassVar[Any]
    files: ClassVar[tuple[Path, ...]] = ()
    kind: ClassVar[str] = "hooks"

    @property
    def choice(self) -> PluginChoice:
        """The choice that loads the plugin and makes its faults errors."""
        settings = {self.method: dict(self.options)} if self.options else {}
        return PluginChoice(
            () if self.files else (self.method,), (), self.files, strict=True, settings=settings
        )

    @property
    def hooks(self) -> list[str]:
        """The hooks that it implements."""
        plugins = Plugins(self.choice)
        return plugins.hooks_of(next(p for p in plugins.loaded if p.name == self.method))

    def test_it_loads_without_fault(self) -> None:
        """It is imported, its hooks exist, their arguments fit, and it implements at least one."""
        require(self.hooks, f"{self.method} must implement a hook, marked with `@learnforge.hookimpl`")

    @needs(lambda suite: not suite.files, "a file is loaded because it is named")
    def test_it_is_not_loaded_unless_enabled(self) -> None:
        """Installing it changes nothing: only a run that enables it loads it."""
        loaded = [plugin.name for plugin in Plugins().loaded]
        require(self.method not in loaded, f"{self.method} must be loaded by `enable` alone")
        refused = PluginChoice(disable=(self.method,))
        named = [plugin for plugin in Plugins(refused).found if plugin.is_named(self.method)]
        require(not any(is_usable(plugin, refused) for plugin in named), "disabling it must refuse it")

    def test_a_run_with_it_has_no_fault(self) -> None:
        """Every hook of it takes what a run hands it and raises nothing; its report sections can be shown."""
        with tempfile.TemporaryDirectory() as folder:
            run = self._run(Path(folder))
            report_sections(run)
            run.plugins.hook.learnforge_run_failed(run=run, error=StageError("made up, to be heard of"))

    @needs(lambda suite: not set(suite.hooks) & set(hookspecs.CHANGING), "it changes results, as it may")
    def test_a_run_with_it_gives_the_same_bits(self) -> None:
        """Who only listens and shows changes nothing: the network is that of a run without it."""
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            plain = learnforge.api.run(RECIPE, Path(first))
            own = self._run(Path(second))
        require(_bits(plain) == _bits(own), "a run with it must give the same bits as one without it")

    @needs(lambda suite: set(suite.hooks) & set(hookspecs.CHANGING), "it changes no results")
    def test_a_run_with_it_repeats(self) -> None:
        """What changes results does so as a function of its arguments: two runs give the same network."""
        with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
            runs = [self._run(Path(folder)) for folder in (first, second)]
        require(_bits(runs[0]) == _bits(runs[1]), "two runs with it must give the same bits")

    def _run(self, folder: Path) -> Run:
        return learnforge.api.run(RECIPE, folder, plugins=self.choice)


def _bits(run: Run) -> str:
    """Hash what a run made: weights, and whatever was measured but for times."""
    timed = ("seconds", "latency_ms", "teacher_latency_ms", "history")
    made = {
        name: [artifact.weights, {k: v for k, v in artifact.metrics.items() if k not in timed}]
        for name, artifact in run.artifacts.items()
    }
    return digest(made)
