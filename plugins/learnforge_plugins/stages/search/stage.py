"""The kind of stage `search`: its settings, the search, and the retraining of what it found."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import deep_mapping, ge, gt, instance_of, optional
from torch import Tensor, nn

from learnforge.artifact import Artifact
from learnforge.check import scores_fault
from learnforge.context import Context
from learnforge.errors import DivergedError, Problem, StageError, nearest
from learnforge.hookspecs import hookimpl
from learnforge.kinds.cost import COSTS, CostMeter
from learnforge.kinds.evaluator import Evaluator
from learnforge.kinds.executor import Executor
from learnforge.kinds.form import form_of
from learnforge.kinds.score import Score
from learnforge.kinds.searcher import DirectSearcher, Searcher
from learnforge.kinds.space import Space
from learnforge.kinds.stage import Stage
from learnforge.kinds.task import Task
from learnforge.options.structure import plugin_field
from learnforge.plugins.identity import spell
from learnforge.plugins.registry import Plugins
from learnforge.randomness import seeded
from learnforge.spec import NetworkSpec, Provenance, TaskInfo, trained_on
from learnforge_kit.search.pareto import best_first, non_dominated_rank, to_losses
from learnforge_kit.search.view import AllowedView, SpaceView
from learnforge_kit.training.evaluation import Scores
from learnforge_kit.training.loop import train_on_labels
from learnforge_kit.training.measures import judge, measure_costs
from learnforge_kit.training.settings import Train
from learnforge_kit.training.settling import evaluate_trained
from learnforge_plugins.stages.measured import Searched, Trials
from learnforge_plugins.stages.search.admission import Admission
from learnforge_plugins.stages.search.describe import random_designs
from learnforge_plugins.stages.search.driver import search_designs
from learnforge_plugins.stages.search.evaluators import TrainEvaluator
from learnforge_plugins.stages.search.networks import NetworkObjective, label_of, metrics_of
from learnforge_plugins.stages.search.record import Filter, Goal, Ranking, Record, WarmStart
from learnforge_plugins.stages.search.rungs import Rungs
from learnforge_plugins.stages.search.storage import Direction

TRIED = 10
"""Random designs that a check asks costs about."""


@frozen(kw_only=True)
class SearchStage(Stage):
    """Search an architecture, then train the best designs longer and hand on the best of them.

    Args:
        space: Where to search.
        trials: Distinct designs to train, from 1.
        objectives: What is wanted of a design: `accuracy` on validation data, or what else the task's form
            measures, `loss`, a cost or a score, with a minus before what shall be small. Several make a
            Pareto set. By default what the form measures first.
        limits: Largest allowed costs: `parameters`, `macs`, `peak_activation_bytes`, `latency_ms`, or one of
            `costs`. Checked before training.
        costs: Further costs, such as `{ use = "lookup", file = "phone.json", label = "phone_ms" }`.
        scores: Zero-cost scores to compute for every design, such as `"naswot"`: for objectives, and for
            searchers that learn from them.
        warm_start: Begin with the designs that a score prefers.
        filter: Refuse the designs that a score thinks little of.
        evaluator: How a design is judged: `train` it (the default), by `score` alone, or as a plugin does.
        train: How trials are trained.
        rungs: Stop trials early that do worse than others; by default all are trained to their end.
        batch: Trials asked at a time. With it the search is the same for any number of workers; without it, a
            free worker gets the next trial at once.
        threads: CPU threads of a trial.
        executor: Where trials run: `serial`, `processes`; by default `processes` for more than one worker.
        keep: Best designs that are trained again, with `retrain`.
        retrain: How they are trained; by default as `train` with three times the epochs.
        pick: Objective by which one of the Pareto set is handed on; the first objective by default.
            `knee` takes the design nearest to the best of all objectives at once, each scaled to [0, 1]
            over the set.
    """

    space: Space = plugin_field("space")
    trials: int = field(default=20, validator=ge(1))
    objectives: tuple[str, ...] = ()
    limits: Mapping[str, float] = field(factory=dict, validator=deep_mapping(instance_of(str), gt(0)))
    costs: tuple[CostMeter, ...] = plugin_field("cost", default=(), many=True)
    scores: tuple[Score, ...] = plugin_field("score", default=(), many=True)
    warm_start: WarmStart | None = None
    filter: Filter | None = None
    evaluator: Evaluator | None = plugin_field("evaluator", default=None)
    train: Train = Train(epochs=8)
    rungs: Rungs | None = None
    batch: int | None = field(default=None, validator=optional(ge(1)))
    threads: int = field(default=1, validator=ge(1))
    executor: Executor | None = plugin_field("executor", default=None, placement=True)
    keep: int = field(default=1, validator=ge(1))
    retrain: Train | None = None
    pick: str | None = None

    kind: ClassVar[str] = "search"
    forms: ClassVar[frozenset[str] | None] = None
    method_kind: ClassVar[str] = "searcher"
    method_base: ClassVar[type] = Searcher

    @property
    def judging(self) -> Evaluator:
        """The evaluator; one that trains where none is named."""
        return self.evaluator or TrainEvaluator()

    @property
    def goal(self) -> Goal:
        """What the driver is to search for."""
        return Goal(
            self.trials,
            self.objectives,
            self.limits,
            self.batch,
            self.rungs,
            _ranking(self.warm_start),
            _ranking(self.filter),
        )

    def metrics(self, task: TaskInfo) -> list[str]:
        """List the names that objectives may use."""
        return [*metrics_of(self.judging, task), *self.costs_known, *map(label_of, self.scores)]

    def _with_objectives(self, task: TaskInfo) -> SearchStage:
        """Return the stage with what the task's form measures first for its objective, if it names none."""
        return self if self.objectives else evolve(self, objectives=tuple(form_of(task.form).measured[:1]))

    @property
    def costs_known(self) -> list[str]:
        """Names that limits may use."""
        return [*COSTS, *map(label_of, self.costs)]

    @property
    def longer(self) -> Train:
        """How the best designs are trained."""
        return self.retrain or evolve(self.train, epochs=3 * self.train.epochs)

    def check(self, task: Task, inputs: Mapping[str, Artifact], plugins: Plugins) -> list[Problem]:
        if not self.objectives:
            return self._with_objectives(task.info).check(task, inputs, plugins)
        metrics, costs = self.metrics(task.info), self.costs_known
        problems = [
            Problem("objectives", f"unknown metric {name!r}; {nearest(name, metrics)}")
            for name in self.goal.metrics
            if name not in metrics
        ]
        problems += [
            Problem(f"limits.{n}", f"unknown cost; {nearest(n, costs)}")
            for n in self.limits
            if n not in costs
        ]
        twice = sorted({name for name in metrics if metrics.count(name) > 1})
        if twice:
            problems.append(
                Problem("costs", f"names must differ, {', '.join(twice)} comes twice; give a cost a `label`")
            )
        for position, meter in enumerate(self.costs):
            try:
                meter.content()
            except ValueError as error:
                problems.append(Problem(f"costs[{position}]", str(error)))
        trains = {"train": self.train, "retrain": self.longer}
        problems += [Problem(key, words) for key, own in trains.items() if (words := own.fault(task.info))]
        problems += [
            Problem("objectives", f"{name!r} is an error, of which less is better: write '-{name}'")
            for name in self.objectives
            if name in form_of(task.info.form).errors
        ]
        problems += self._check_rungs()
        if len(self.objectives) > 1 and not self.method.supports_many_objectives:
            name, count = type(self.method).__name__, len(self.objectives)
            problems.append(
                Problem("objectives", f"{name} takes one objective, got {count}; choose another searcher")
            )
        choices = {name.removeprefix("-") for name in self.objectives} | {"knee"}
        if self.pick is not None and self.pick not in choices:
            problems.append(
                Problem(
                    "pick",
                    f"must be an objective or `knee`, got {self.pick!r}; {nearest(self.pick, choices)}",
                )
            )
        if not problems:
            problems += self._check_outputs(task)
        if not problems:
            problems += self._check_costs(task)
            problems += self._check_searcher()
        return problems

    def _check_searcher(self) -> list[Problem]:
        if not isinstance(self.method, DirectSearcher):
            labels = map(label_of, self.scores)
            return check_sampler(self.method, self.goal.directions, self.space, labels)
        if self.warm_start is None:
            return []
        name = spell(self.method)["use"]
        return [Problem("warm_start", f"is for searchers that sample, and {name} finds its designs itself")]

    def _check_outputs(self, task: Task) -> list[Problem]:
        """Find a space whose networks put out something else than the task's form wants; most forms want a
        list of numbers, which every space gives.
        """
        if form_of(task.info.form).outputs(task.info) == (task.info.outputs,):
            return []
        faults = []
        for design in random_designs(self.space, TRIED, 0):
            with suppress(Exception), torch.device("meta"), torch.no_grad():  # such a design fails alone
                network = self.space.build(design, task.info).eval()
                faults.append(scores_fault(network(torch.zeros(2, *task.info.input_shape)), task.info))
        return [Problem("space", f"its networks {faults[0]}")] if faults and all(faults) else []

    def _check_costs(self, task: Task) -> list[Problem]:
        """Find costs that know none of a few random designs, such as a table of another space's layers."""
        meters = [(place, meter) for place, meter in enumerate(self.costs) if not meter.needs_weights]
        if not meters:
            return []
        networks: list[nn.Module] = []
        failures: list[str] = []
        try:
            designs = list(random_designs(self.space, TRIED, 0))
        except Exception as error:  # whatever the space's own code raises
            return [Problem("space", f"must make its choices, but: {type(error).__name__}: {error}")]
        for design in designs:
            try:
                with torch.device("meta"):
                    networks.append(self.space.build(design, task.info).eval())
            except Exception as error:  # of one design, which the search counts as failed
                failures.append(f"{type(error).__name__}: {error}")
        if not networks:
            words = f"none of {TRIED} random designs can be built, the first since: {failures[0]}"
            return [Problem("space", words)]
        problems = []
        for place, meter in meters:
            faults = [fault for network in networks if (fault := _fault(meter, network, task))]
            if len(faults) == len(networks):
                words = (
                    f"refuses each of {len(networks)} random designs of the space, the first since: "
                    f"{faults[0]}"
                )
                problems.append(Problem(f"costs[{place}]", words))
        return problems

    def _check_rungs(self) -> list[Problem]:
        rungs, problems = self.rungs, []
        if rungs is None:
            return []
        if not self.judging.has_rungs:
            name = spell(self.judging)["use"]
            words = f"are for evaluators that train little by little, which {name} does not"
            problems.append(Problem("rungs", words))
        if rungs.method == "halving" and self.batch is None:
            problems.append(
                Problem(
                    "batch", "is missing; `halving` compares the members of a batch, so say how many they are"
                )
            )
        if rungs.first >= self.train.epochs:
            problems.append(
                Problem("rungs.first", f"must be below train.epochs = {self.train.epochs}, got {rungs.first}")
            )
        names = self.goal.metrics
        if rungs.by is not None and rungs.by not in names:
            problems.append(
                Problem("rungs.by", f"must be an objective, got {rungs.by!r}; {nearest(rungs.by, names)}")
            )
        return problems

    def output(self, task: Task, inputs: Mapping[str, Artifact]) -> Artifact:
        return Artifact(NetworkSpec.of_space(self.space), task.info)

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        if not self.objectives:
            return self._with_objectives(task.info).run(task, inputs, context)
        records, history, shared = self._search(task, context)
        front = self._front(records)
        here = task.load(context.device)
        retrained = self._retrain_best(self._order(records, front), here, context)
        after = [evolve(r, metrics={**r.metrics, **s.measures, "loss": s.loss}) for r, _, s in retrained]
        record, network, _ = retrained[self._preference(after)[0]]
        numbers = [r.number for r in front]
        search = Trials.counted(self.objectives, history, front=numbers, design=record.design)
        assessment = judge(network, here, batch_size=self.longer.eval_batch_size)
        measured = Searched(assessment=assessment, costs=measure_costs(network, here), search=search)
        spec = NetworkSpec.of_space(self.space, record.design)
        learnt = trained_on(task.info.name, task.origins_of(task.train), task.train)
        provenance = Provenance(trained_on=(learnt,))
        artifact = Artifact(
            spec, task.info, adapter=shared, metrics=measured.as_metrics(), provenance=provenance
        )
        return artifact.with_state(network)

    def _search(
        self, task: Task, context: Context
    ) -> tuple[list[Record], list[dict[str, Any]], Mapping[str, Tensor]]:
        """Return the designs that were evaluated, all trials, and what they shared."""
        objective = self._objective(task, context)
        view = AllowedView(self.space, {}, Admission(self.goal, objective, context).allows)
        objective = evolve(objective, shared=self._shared(view, task, context))
        method, find = self.method, None
        if isinstance(method, DirectSearcher):
            own = evolve(context, seed=context.derive("searcher"))

            def find() -> Sequence[Mapping[str, Any]]:
                return method.find(self.space, view, task.load(context.device), self.train, own)

        scores = {
            label_of(score): functools.partial(objective.score, label_of(score), context=context)
            for score in self.scores
        }
        found = search_designs(
            self.name,
            self.goal,
            objective,
            self.method,
            evolve(context, executor=self.executor or context.executor),
            context.derive("searcher"),
            scores,
            self.threads,
            find=find,
        )
        return *found, objective.shared

    def _objective(self, task: Task, context: Context) -> NetworkObjective:
        ranked = [setting.score for setting in (self.warm_start, self.filter) if setting is not None]
        return NetworkObjective(
            self.space,
            task,
            self.train,
            context.seed,
            context.stage,
            self.threads,
            frozenset([*self.goal.metrics, *self.limits]),
            self.costs,
            self.scores,
            tuple(ranked),
            self.judging,
        )

    def _shared(self, view: AllowedView, task: Task, context: Context) -> Mapping[str, Tensor]:
        """Return what the evaluator prepares, on the CPU, or has prepared before a kill."""
        if type(self.judging).prepare is Evaluator.prepare:
            return {}  # the task need not be put on the device for it
        kept = context.checkpoint("what trials share")
        state = kept.load(torch.device("cpu"))
        if state is not None:
            shared: Mapping[str, Tensor] = state["shared"]
            return shared
        own = evolve(context, seed=context.derive("evaluator"))
        with seeded(own.seed):
            made = self.judging.prepare(self.space, view, task.load(context.device), self.train, own)
        is_right = isinstance(made, Mapping) and all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in made.items()
        )
        if not is_right:
            name = type(self.judging).__name__
            raise StageError(f"{name}.prepare must return tensors by name, it returned {made!r:.200}")
        # cloned, since some may be tied, and none is to be written into
        found = {name: tensor.detach().cpu().clone() for name, tensor in made.items()}
        if found:
            kept.save(lambda: {"shared": found}, final=True)
        return found

    def _values(self, records: Sequence[Record]) -> list[list[float]]:
        return [[record.metrics[name] for name in self.goal.metrics] for record in records]

    def _front(self, records: Sequence[Record]) -> list[Record]:
        """Return the designs that no other beats in every objective."""
        ranks = non_dominated_rank(to_losses(self._values(records), self.goal.directions))
        return [record for record, rank in zip(records, ranks, strict=True) if rank == 0]

    def _order(self, records: Sequence[Record], front: Sequence[Record]) -> list[Record]:
        """Order designs for retraining: the Pareto set as `pick` says, then the others."""
        rest = [record for record in records if record not in front]
        others = best_first(self._values(rest), self.goal.directions) if rest else []
        return [front[i] for i in self._preference(front)] + [rest[i] for i in others]

    def _preference(self, records: Sequence[Record]) -> list[int]:
        """Return positions in the order of `pick`."""
        losses = to_losses(self._values(records), self.goal.directions)
        if self.pick == "knee":
            spread = losses.max(0) - losses.min(0)
            spread[spread == 0] = 1.0
            distance = (((losses - losses.min(0)) / spread) ** 2).sum(1)
            return [int(i) for i in distance.argsort(kind="stable")]
        column = self.goal.metrics.index(self.pick) if self.pick else 0
        return [int(i) for i in losses[:, column].argsort(kind="stable")]

    def _retrain_best(
        self, records: Sequence[Record], task: Task, context: Context
    ) -> list[tuple[Record, torch.nn.Module, Scores]]:
        """Retrain from the best on until `keep` are done; one that diverges makes place for the next."""
        retrained: list[tuple[Record, torch.nn.Module, Scores]] = []
        diverged: DivergedError | None = None
        for record in records:
            try:
                retrained.append(self._retrain(record, task, context))
            except DivergedError as error:
                diverged = error
            if len(retrained) == self.keep:
                break
        if not retrained and diverged is not None:
            raise diverged
        return retrained

    def _retrain(
        self, record: Record, task: Task, context: Context
    ) -> tuple[Record, torch.nn.Module, Scores]:
        seed = context.derive("retrain", record.key)
        with seeded(seed):
            network = self.space.build(record.design, task.info).to(context.device)
        part = f"trial {record.number} again"
        train_on_labels(network, task, self.longer, evolve(context, seed=seed), part)
        longer = self.longer
        return record, network, evaluate_trained(network, task, longer.batch_size, longer.eval_batch_size)


def check_sampler(
    searcher: Searcher, directions: Sequence[Direction], space: Space, scores: Iterable[str] = ()
) -> list[Problem]:
    """Let a searcher make its sampler for nothing, so that what it refuses is known before anything
    is computed.
    """
    try:
        searcher.sampler(0, directions, SpaceView(space, dict.fromkeys(scores, _no_score)))
    except (ValueError, TypeError) as error:
        return [Problem("options", str(error))]
    return []


def _fault(meter: CostMeter, network: nn.Module, task: Task) -> str:
    """Return why a cost cannot be said of a network, or ""."""
    try:
        meter.measure(network, task.info)
    except Exception as error:  # a search refuses a design whatever its cost raises
        return str(error) or type(error).__name__
    return ""


def _no_score(design: Any) -> float:
    return 0.0


def _ranking(setting: WarmStart | Filter | None) -> Ranking | None:
    return Ranking(label_of(setting.score), setting.candidates, setting.keep) if setting is not None else None


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `search`."""
    return {"search": SearchStage}
