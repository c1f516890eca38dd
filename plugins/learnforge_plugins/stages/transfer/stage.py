"""The kind of stage `transfer`: its settings, what it checks, measures and hands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, ClassVar

from attrs import evolve, frozen
from torch import nn

from learnforge.artifact import Artifact
from learnforge.changes import changes_of
from learnforge.context import Context
from learnforge.errors import Problem, StageError, TaskError
from learnforge.hookspecs import hookimpl
from learnforge.kinds.change import Change
from learnforge.kinds.stage import Reference, Stage
from learnforge.kinds.task import Task, TaskSource
from learnforge.kinds.transfer import DirectTransfer, Phase, PhasedTransfer, Transfer
from learnforge.kinds.validator import Validator
from learnforge.options.structure import plugin_field
from learnforge.plugins.identity import spell
from learnforge.plugins.registry import Plugins
from learnforge.randomness import preserved, seeded
from learnforge.spec import Provenance, TaskInfo, trained_on
from learnforge_kit.networks.layers import count_parameters
from learnforge_kit.networks.modules import build_failure, check_modules, require_recorded
from learnforge_kit.training.loop import train_on_labels
from learnforge_kit.training.measures import judge, measure_costs
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.examples import faults_of_all
from learnforge_plugins.stages.measured import Baseline, Transferred, Unlabelled
from learnforge_plugins.stages.transfer.judgement import judge_without_labels
from learnforge_plugins.stages.transfer.loop import TransferLoop, share_epochs
from learnforge_plugins.stages.transfer.source import (
    head_weights,
    load_source,
    method_problems,
    require_scores,
    source_refusal,
    untrained_words,
)


@frozen(kw_only=True)
class TransferStage(Stage):
    """Carry a network's knowledge to another task.

    Args:
        source: TOML key `from`: the stage, artifact's folder or model to start from; the stage above
            by default.
        train: How the network is trained.
        baseline: Train the same network from fresh weights with the same budget, and report both. In a
            domain adaptation it is trained on the labelled task alone.
        source_task: The labelled task, for methods that need no label of the new one.
        validator: What scores a network without a label of the new task: after each epoch of a domain
            adaptation, for `weights = "best"` and `patience`, and in searches over options; accuracy on the
            labelled task's validation images by default.
    """

    source: Reference = plugin_field("model", default=None, reference=True, key="from")
    train: Train = Train()
    baseline: bool = True
    source_task: TaskSource | None = plugin_field("task", default=None)
    validator: Validator | None = plugin_field("validator", default=None)

    kind: ClassVar[str] = "transfer"
    forms: ClassVar[frozenset[str] | None] = None
    method_kind: ClassVar[str] = "transfer"
    method_base: ClassVar[type] = Transfer

    @property
    def adapts_domain(self) -> bool:
        """Tell whether the method needs the labelled source task beside the new one."""
        return isinstance(self.method, PhasedTransfer) and self.method.adapts_domain

    def check(self, task: Task, inputs: Mapping[str, Artifact], plugins: Plugins) -> list[Problem]:
        unfit = check_modules(self, inputs, may_differ=True)
        faults = unfit or self._check_source(inputs["source"], task.info, plugins)
        problems = [*self._check_domains(task), *faults]
        if getattr(self.method, "uses_unlabelled", False) and not task.unlabelled:
            name = spell(self.method)["use"]
            lack = f"must have unlabelled images, which {name} learns from, such as `unlabelled = FOLDER`"
            problems.append(Problem("task", f"{lack} of an image-folder; {task.info.name} has none"))
        info = task.info
        found = {"train": self.train.fault(info), "from": untrained_words(self.method, self.source, info)}
        return [*problems, *(Problem(key, words) for key, words in found.items() if words)]

    def _check_source(self, source: Artifact, task: TaskInfo, plugins: Plugins) -> list[Problem]:
        def check(sources: Sequence[Artifact]) -> list[Problem]:
            try:
                reason = source_refusal(sources[0], task, plugins)
            except Exception as error:  # whatever the source's own code raises
                return build_failure(self, "source", error)
            if reason:
                return [Problem("from", reason)]
            return method_problems(self.method, sources[0], task, plugins, self._share)

        return faults_of_all([source], plugins, check)

    def _share(self, phases: Sequence[Phase]) -> None:
        """Refuse phases that the epochs do not suffice for; those of ranges are refused as they come up."""
        if not any(path == "train.epochs" or path.startswith("options.") for path in self.ranges):
            share_epochs(phases, self.train)

    def _check_domains(self, task: Task) -> list[Problem]:
        problems = []
        if self.method.uses_labels:
            words = (
                f"is for methods that need no label of the new task, which {type(self.method).__name__} does"
            )
            named = {"source_task": self.source_task, "validator": self.validator}
            problems += [Problem(key, words) for key, value in named.items() if value is not None]
        if self.adapts_domain and self.source_task is None:
            problems.append(
                Problem("source_task", "is missing; this method adapts from a labelled source task")
            )
        elif self.source_task is None and not self.method.uses_labels:
            without = "needs a `source_task`: without labels of the new task it is judged by that one's"
            paths = [*self.ranges, *(["validator"] if self.validator is not None else [])]
            problems += [Problem(path, without) for path in paths]
        if problems or self.source_task is None:
            return problems
        try:
            labelled = self.source_task.load().info
        except TaskError as error:
            return [Problem("source_task", str(error))]
        if labelled.outputs != task.info.outputs:
            words = (
                f"must have the new task's {task.info.outputs} classes, in their order, it has "
                f"{labelled.outputs}: {', '.join(labelled.classes)}"
            )
            problems.append(Problem("source_task", words))
        if labelled.input_shape != task.info.input_shape:
            want, got = list(task.info.input_shape), list(labelled.input_shape)
            words = f"must show images of shape {want} as the new task does, it shows {got}"
            problems.append(Problem("source_task", words))
        return problems

    def measured(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Judge a trial by what its method may know: without labels of the new task by the validator, or by
        accuracy on the labelled task.
        """
        found = super().measured(metrics)
        if not self.method.uses_labels:
            found["accuracy"] = Unlabelled.of(metrics).score
        return found

    def for_trial(self) -> TransferStage:
        return evolve(self, baseline=False)

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        here, source = task.load(context.device), inputs["source"]
        labelled = self.source_task.load().load(context.device) if self.source_task else here
        self._require_recorded(source, task.info, context)
        network, changes = load_source(source, task.info, context)
        heads = head_weights(network, task.info)
        whole, before = count_parameters(network), len(changes_of(network))
        with seeded(context.derive("prepare")):
            network = self.method.prepare(network, source.task, task.info)
        changes += _cuts_in_words(network, changes_of(network)[before:], whole)
        is_new = any(a is not b for a, b in zip_longest(heads, head_weights(network, task.info)))
        if is_new and source.task != task.info:
            changes.append(f"{source.task.outputs} → {task.info.outputs} classes: new head")
        require_scores(network, task.info, f"{type(self.method).__name__}.prepare")
        network.to(context.device)
        history, seen = self._carry(network, source.task, here, labelled, context)
        network = self.method.finish(network).eval()
        size = self.train.eval_batch_size
        assessment, costs = judge(network, here, batch_size=size), measure_costs(network, here)
        pairs, baseline, name = None, None, None
        if self.source_task is not None:
            pairs = [list(pair) for pair in zip(labelled.info.classes, here.info.classes, strict=True)]
        finished = self._as_artifact(source, network, task, labelled, context)
        if self.baseline and source.spec.kind != "module":  # a module of the caller's has no fresh weights
            fresh, history["from scratch"] = self._train_fresh(finished, labelled, context)
            baseline = judge(fresh, here, False, size)
            name = "source only" if self.source_task is not None else "from scratch"
        measured = Transferred(
            assessment=assessment,
            costs=costs,
            changes=changes,
            history=history,
            pairs=pairs,
            unlabelled=seen,
            baseline=baseline,
            baseline_name=name,
        )
        return evolve(finished, metrics=measured.as_metrics())

    def _require_recorded(self, source: Artifact, task: TaskInfo, context: Context) -> None:
        """Refuse, before the training, changes that are not written down, unless `finish` takes them back."""
        # not a copy of the network: torch's parametrizations share a class with their copies
        with preserved():
            sketch, _ = load_source(source, task, context)
            sketch = self.method.finish(self.method.prepare(sketch, source.task, task))
        start = evolve(source, task=task)
        require_recorded(start, sketch, context.plugins, type(self.method).__name__)

    def run_baseline(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        """Train the network from fresh weights, on the same batches and with the same budget as in `run`; for
        a method that adapts a domain on the labelled task alone.
        """
        here = task.load(context.device)
        labelled = self.source_task.load().load(context.device) if self.source_task else here
        start = evolve(inputs["source"], task=task.info, weights=None, adapter={}, adapter_options={})
        fresh, history = self._train_fresh(start, labelled, context)
        seen = (
            judge_without_labels(fresh, here, labelled, self.validator, batch_size=self.train.eval_batch_size)
            if self.source_task is not None
            else None
        )
        measured = Baseline(
            assessment=judge(fresh, here, batch_size=self.train.eval_batch_size),
            history={"from scratch": history},
            unlabelled=seen,
        )
        return start.with_state(fresh, metrics=measured.as_metrics())

    def _as_artifact(
        self, source: Artifact, network: nn.Module, task: Task, labelled: Task, context: Context
    ) -> Artifact:
        tasks = [task, labelled] if self.adapts_domain else [task]
        learnt = tuple(trained_on(t.info.name, t.origins_of(t.train), t.train) for t in tasks)
        plain = evolve(source, task=task.info, adapter={}, adapter_options={})
        return evolve(plain, provenance=Provenance(trained_on=learnt)).with_state(network)

    def _carry(
        self, network: nn.Module, old: TaskInfo, here: Task, labelled: Task, context: Context
    ) -> tuple[dict[str, list[dict[str, Any]]], Unlabelled | None]:
        """Train or fit the network; return the history, and what judges it without labels of the new task."""
        if isinstance(self.method, DirectTransfer):
            with seeded(context.derive("fit")):
                fitted = self.method.fit(network, here, context)
            fitted.requires_grad_(True)
            if fitted is not network:
                raise StageError(
                    f"{type(self.method).__name__}.fit must return the network that it was given"
                )
            is_judged = self.source_task is not None
            return {"transfer": []}, (
                judge_without_labels(
                    network, here, labelled, self.validator, batch_size=self.train.eval_batch_size
                )
                if is_judged
                else None
            )
        phases = self.method.phases(network, old, here.info)
        lengths = share_epochs(phases, self.train)
        with TransferLoop(self.method, network, here, labelled, self.validator, context) as loop:
            history = [
                entry
                for number, (phase, train) in enumerate(zip(phases, lengths, strict=True), 1)
                for entry in loop.train_phase(
                    phase, train, f"{number} {phase.name}" if len(phases) > 1 else phase.name
                )
            ]
            return {"transfer": history}, loop.judge() if self.adapts_domain else None

    def _train_fresh(
        self, artifact: Artifact, labelled: Task, context: Context
    ) -> tuple[nn.Module, list[dict[str, Any]]]:
        """Train an artifact's network from fresh weights on labels; return it with its history."""
        network = artifact.network(context.plugins, context.derive("baseline"), artifact.task)
        network.to(context.device)
        seeded_ = evolve(context, seed=context.derive("train", "from scratch"))
        return network, train_on_labels(network, labelled, self.train, seeded_, "from scratch")


def _cuts_in_words(network: nn.Module, made: Sequence[Change], whole: int) -> list[str]:
    """Say where a network was cut, and what is left of its parameters."""
    if all(change.name != "cut" for change in made):
        return []
    from learnforge_kit.networks.cut import Cut  # most methods cut nothing

    left = f"{count_parameters(network):,} of {whole:,} parameters"
    return [f"ends at {change.layer}: {left}" for change in made if isinstance(change, Cut)]


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `transfer`."""
    return {"transfer": TransferStage}
