"""What every searcher that finds its designs itself must keep to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from attrs import evolve

from learnforge import context as context_module
from learnforge.context import Context
from learnforge.kinds.searcher import DirectSearcher
from learnforge.kinds.task import Task
from learnforge.plugins.registry import Plugins
from learnforge_kit.search.view import AllowedView
from learnforge_kit.training.settings import Train
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import require
from learnforge_testing.suites.evaluator import Widths, without_test_images
from learnforge_testing.toys import make_task

QUICK = Train(epochs=3, batch_size=20)


class _CutError(Exception):
    """Stands for a kill."""


class DirectSearcherSuite(MethodSuite):
    """Checks of a searcher that is no sampler, on its `example` space and striped images.

    Args:
        train: The stage's table `train`.
    """

    kind: ClassVar[str] = "searcher"
    base: ClassVar[type] = DirectSearcher
    train: ClassVar[Train] = QUICK

    def result(self) -> Any:
        return [dict(choices) for choices in self._find(make_task())]

    def test_designs_are_of_the_space(self) -> None:
        """It finds at least one design, no design twice, and each choice is one that the space offers."""
        found = self._find(make_task())
        require(len(found) > 0, "at least one design must be found")
        view = self._view()
        keys = []
        for choices in found:
            candidate = view.complete(choices, np.random.default_rng(0))
            require(
                dict(candidate.choices) == dict(choices),
                f"choices must be those that the space asks for, got {dict(choices)}; it makes "
                f"{dict(candidate.choices)} of them",
            )
            keys.append(candidate.key)
        require(len(set(keys)) == len(keys), "each design must be found once")

    def test_seed_decides_the_search(self) -> None:
        """The same seed finds the same designs in the same order."""
        first, second = self._find(make_task()), self._find(make_task())
        require(first == second, f"the same seed must find the same designs, got {first} and {second}")

    def test_test_data_are_not_read(self) -> None:
        """The test split is not read, in any way."""
        self._find(without_test_images(make_task()))

    def test_a_search_that_was_cut_off_goes_on(self) -> None:
        """Ended at the end of its second epoch, where it has epochs, it finds the same when it goes on."""
        expected, epochs = self._find(make_task()), []

        def stop(event: str, **data: Any) -> None:
            epochs.append(event)
            if len(epochs) == 2:
                raise _CutError

        before = context_module.CHECKPOINT_SECONDS
        context_module.CHECKPOINT_SECONDS = 0.0
        try:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = self._find(make_task(), evolve(_context(Path(folder)), emit=stop))
                except _CutError:
                    found = self._find(make_task(), _context(Path(folder)))
        finally:
            context_module.CHECKPOINT_SECONDS = before
        require(found == expected, f"a search that goes on must find {expected}, it found {found}")

    def test_options_are_refused(self) -> None:
        """Where there are no networks, such as among options, it refuses in words."""
        try:
            self.make().sampler(0, ["maximize"], self._view())
        except ValueError:
            return
        raise AssertionError("`sampler` must raise a ValueError: nothing but networks can be found")

    def _view(self) -> AllowedView:
        return AllowedView(self.method.example or Widths((4, 8)))

    def _find(self, task: Task, context: Context | None = None) -> Sequence[Mapping[str, Any]]:
        view = self._view()
        with tempfile.TemporaryDirectory() as folder:
            own = context or _context(Path(folder))
            found: Sequence[Mapping[str, Any]] = self.make().find(view.space, view, task, self.train, own)
        return found


def _context(folder: Path) -> Context:
    return Context("search", 3, torch.device("cpu"), Plugins(), folder)
