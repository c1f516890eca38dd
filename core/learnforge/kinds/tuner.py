"""The kind `tuner`: searches what a stage leaves open, its options or a network, by running the stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from learnforge.artifact import Artifact
from learnforge.context import Context
from learnforge.errors import PluginError, Problem
from learnforge.kinds.space import Design, Space
from learnforge.kinds.stage import Stage
from learnforge.kinds.task import Task
from learnforge.options.ranges import Tune
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo

Arrange = Callable[[Stage, Task, Mapping[str, Artifact], Design], tuple[Stage, Mapping[str, Artifact]]]
"""Puts a design into a stage and its inputs; a module-level function, since workers unpickle it."""


@frozen(eq=False)
class OpenStage:
    """A stage that leaves something open, with what it runs on.

    Args:
        stage: The stage.
        task: Its task.
        inputs: Its inputs.
        space: What is open.
        arrange: Puts a design of the space into the stage.
        name: What is searched, for the study and for errors.
    """

    stage: Stage
    task: Task
    inputs: Mapping[str, Artifact]
    space: Space
    arrange: Arrange
    name: str


class Tuner(ABC):
    """A method of the kind `tuner`: a frozen attrs class. The runner asks the tuner `search` for every stage
    that has ranges in the place of options, and stages may ask it for what they search themselves.

    Trials are judged on validation data: the test split is not read before the search has ended.
    """

    @abstractmethod
    def check(self, stage: Stage, task: TaskInfo) -> list[Problem]:
        """Find what is wrong with a stage's ranges and its `tune`; paths are relative to the stage.

        Args:
            stage: The stage.
            task: Its task.
        """

    @abstractmethod
    def check_settings(
        self, settings: Tune, path: str, space: Space, measures: Sequence[str]
    ) -> list[Problem]:
        """Find what is wrong with how something is to be searched.

        Args:
            settings: Searcher, objectives, limits.
            path: Path of the settings, relative to the stage.
            space: What is searched.
            measures: What objectives may name beside costs, see `Stage.judged_by`.
        """

    @abstractmethod
    def run(self, stage: Stage, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        """Search a stage's ranges, then run it with the best options."""

    @abstractmethod
    def search(self, work: OpenStage, settings: Tune, context: Context) -> tuple[Design, dict[str, Any]]:
        """Search what a stage leaves open.

        Args:
            work: The stage, and what is open.
            settings: Searcher, trials, objectives, limits.
            context: The stage's context.

        Returns:
            The best design by the first objective, and what a report shows of the search.
        """


def load_tuner(plugins: Plugins) -> Tuner:
    """Return the tuner `search`."""
    made: Tuner = plugins.load("tuner", "search", Tuner)()
    return made


def check_ranges_of(stage: Stage, task: TaskInfo, plugins: Plugins) -> list[Problem]:
    """Find what is wrong with a stage's ranges and its `tune`; also that there is no tuner."""
    try:
        return load_tuner(plugins).check(stage, task)
    except PluginError as error:
        return [Problem("tune", str(error))]
