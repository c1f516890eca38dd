"""The kind `stage`: one step of a recipe, its settings, what it takes and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from attrs import field, frozen
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.context import Context
from learnforge.errors import ArtifactError, Problem
from learnforge.kinds.cost import COSTS
from learnforge.kinds.form import form_of
from learnforge.kinds.model import Model
from learnforge.kinds.task import Task, TaskSource
from learnforge.options.ranges import Range, Tune
from learnforge.options.structure import option_key, plain, plugin_field
from learnforge.plugins.identity import files_read, identify, spell
from learnforge.plugins.registry import Plugins
from learnforge.spec import TaskInfo

Reference = str | Model | Artifact | nn.Module | None
"""An input: a stage's name or an artifact's path, a model, and from the API an artifact or a module; None:
the stage above.
"""


@frozen(kw_only=True)
class Stage(ABC):
    """One step of a recipe. A subclass is a frozen attrs class whose fields are the keys of a
    `[[stage]]` table.

    The runner resolves the inputs, calls `check` before anything of the recipe is computed, then `run` once;
    `run` goes on from `context.folder` if it was cut off there before.

    Args:
        name: Name of the stage in its recipe, and of its folder.
        method: The method, `use` and `options` in TOML; None for a kind that has none.
        task: The stage's own task; without one it learns that of the stage which its first input comes from,
            or the recipe's.
        tune: How options that are given as ranges are searched.
        ranges: {path of an option: range}, as the recipe has them in the options' places.
    """

    name: str
    method: Any = field(default=None, repr=False, metadata={"internal": True})  # `use` and `options` in TOML
    task: TaskSource | None = plugin_field("task", default=None)
    tune: Tune | None = None
    ranges: Mapping[str, Range] = field(factory=dict, repr=False, metadata={"internal": True})

    kind: ClassVar[str]
    method_kind: ClassVar[str | None] = None
    method_base: ClassVar[type] = object
    method_of_many: ClassVar[str | None] = None
    """Name of the method that `use = ["one", "other"]` means; its option `methods` gets the list."""
    forms: ClassVar[frozenset[str] | None] = frozenset({"classification"})
    """Forms of tasks that it takes, as its method does; None for all that have a training split."""
    optional_inputs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        """Do the work and return the artifact, its provenance left to the runner except for `trained_on`."""

    def check(self, task: Task, inputs: Mapping[str, Artifact], plugins: Plugins) -> list[Problem]:
        """Find what is wrong before anything is computed; paths are relative to the stage.

        Models that the stage itself names are built and shown an image by the core: a stage need not report
        again that one of them fails.

        Args:
            task: The stage's task.
            inputs: As for `run`, but the outputs of earlier stages are stand-ins without weights: what they
                were trained on is known, and their network may not be built.
            plugins: The run's plugins, those from files among them.
        """
        return []

    def output(self, task: Task, inputs: Mapping[str, Artifact]) -> Artifact:
        """Return a stand-in, without weights, for what `run` will give; later stages are checked with it."""
        source = next(iter(inputs.values()))
        return attrs.evolve(source, task=task.info, weights=None, adapter={}, adapter_options={})

    def prepare(
        self, task: Task, inputs: Mapping[str, Artifact], context: Context
    ) -> tuple[Stage, Mapping[str, Artifact]]:
        """Do once what all trials of a search over the stage share; return the stage and its inputs with
        it done.
        """
        return self, inputs

    def for_trial(self) -> Stage:
        """Return the stage without what only a report needs, such as a baseline: a trial of a search over
        its options.
        """
        return self

    def measured(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return what a search over its options may judge a trial by: `accuracy` on validation data, or what
        else the task's form measures, and costs.

        Args:
            metrics: Those of the artifact of a trial, whose test split is the validation split.
        """
        found = {name: metrics[name] for name in COSTS if name in metrics}
        if "validation_accuracy" in metrics:
            found["accuracy"] = metrics["validation_accuracy"]
        found |= metrics.get("validation_measures", {})
        return found

    def judged_by(self, task: TaskInfo) -> Sequence[str]:
        """Name what `measured` gives beside costs; a search over options is for the first by default."""
        return form_of(task.form).measured

    @classmethod
    def adapt(
        cls,
        artifact: Artifact,
        images: Tensor,
        labels: Tensor,
        plugins: Plugins,
        classes: Sequence[str] | None = None,
    ) -> Artifact:
        """Teach what a stage of this kind made new classes from a few examples; refused by default.

        What is made by a kind other than `meta` says so in its `adapter_options`, as `"stage": kind`.

        Args:
            artifact: What the stage made.
            images: float [image, channel, height, width], normalised as the artifact's task says.
            labels: int64 [image], in [0, ways); for regression float [image, output].
            plugins: Where methods are looked up.
            classes: Names of the classes.

        Raises:
            ArtifactError: It cannot be taught, or images and labels do not fit it.
        """
        raise ArtifactError("only what a `meta` stage made can adapt; this artifact has no adapter")

    def describe_inputs(self) -> dict[str, Reference]:
        """Return {role: reference} for every input; those of a list have the roles `name[0]`,
        `name[1]`, ….
        """
        found: dict[str, Reference] = {}
        for declared in self._references():
            value = getattr(self, declared.name)
            if isinstance(value, tuple):
                found |= {f"{declared.name}[{position}]": item for position, item in enumerate(value)}
            elif not isinstance(value, tuple(declared.metadata["tables"].values())):
                found[declared.name] = value
        return found

    def input_path(self, role: str) -> str:
        """Return the TOML path, within the stage, of an input."""
        name = role.partition("[")[0]
        declared = next(f for f in self._references() if f.name == name)
        return option_key(declared) + role.removeprefix(name)

    def _references(self) -> list[attrs.Attribute[Any]]:
        return [f for f in attrs.fields(type(self)) if f.metadata.get("reference")]

    def fingerprint_data(self) -> dict[str, Any]:
        """Return what the result depends on, apart from data and inputs: settings and the code of every
        method used.
        """
        fields = [f for f in attrs.fields(type(self)) if not f.metadata.get("placement")]
        # inputs count by their own fingerprints, tasks by their content
        inputs = {role.partition("[")[0] for role in self.describe_inputs()}
        counted = [f for f in fields if f.name not in inputs and f.metadata.get("plugin") != "task"]
        own = [f for f in counted if f.name not in ("name", "method")]
        parts = [part for f in own for part in _parts_of(f, getattr(self, f.name))]
        methods = [self.method, *plugin_parts(self.method)] if self.method is not None else []
        return {
            "kind": self.kind,
            "method": spell(self.method) if self.method is not None else None,
            "settings": {option_key(f): _spelled(f, getattr(self, f.name)) for f in own},
            "code": [plain(identify(part)) for part in (self, *methods, *parts)],
            "files": files_read([self.method, *(getattr(self, f.name) for f in own)]),
        }


def plugin_parts(owner: Any) -> list[Any]:
    """List what plugins bring among the values of an attrs object's fields, at any depth."""
    fields = attrs.fields(type(owner)) if attrs.has(type(owner)) else ()
    counted = [f for f in fields if not f.metadata.get("placement")]
    return [part for f in counted for part in _parts_of(f, getattr(owner, f.name))]


def _parts_of(declared: attrs.Attribute[Any], value: Any) -> list[Any]:
    values = value if isinstance(value, tuple) else (value,)
    own = [v for v in values if attrs.has(type(v))] if declared.metadata.get("plugin") else []
    return own + [part for v in values for part in plugin_parts(v)]


def _spelled(declared: attrs.Attribute[Any], value: Any) -> Any:
    if isinstance(value, tuple):
        return [_spelled(declared, item) for item in value]
    if declared.metadata.get("plugin") and value is not None:
        return spell(value)
    return plain(value, lambda part: identify(part).name)
