"""The kind of stage `search`: its settings, the search, and the retraining of what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import deep_mapping, ge, gt, instance_of, min_len, optional

from learnforge.artifact import Artifact, NetworkSpec, Provenance, trained_on
from learnforge.context import Context, Executor
from learnforge.errors import DivergedError, Problem, StageError, nearest
from learnforge.evaluation import Scores, evaluate
from learnforge.hookspecs import hookimpl
from learnforge.options import plugin_field
from learnforge.randomness import seeded
from learnforge.space import COSTS, Space
from learnforge.stages.measures import judge, weigh
from learnforge.stages.search.driver import Driver, Goal, Record, read_records
from learnforge.stages.search.pareto import best_first, non_dominated_rank, to_losses
from learnforge.stages.search.searcher import Searcher
from learnforge.stages.search.storage import open_study
from learnforge.stages.search.view import SpaceView
from learnforge.stages.stage import Stage
from learnforge.task import Task
from learnforge.training import Train, Trainee, cross_entropy, fit

METRICS = ("accuracy", "loss", *COSTS)


@frozen(kw_only=True)
class SearchStage(Stage):
    """Search an architecture, then train the best designs longer and hand on the best of them.

    Args:
        space: Where to search.
        trials: Distinct designs to train, from 1.
        objectives: What is wanted of a design: `accuracy` on validation data, `loss`, or a cost, with a minus
            before what shall be small. Several make a Pareto set.
        limits: Largest allowed costs: `parameters`, `macs`, `peak_activation_bytes`, `latency_ms`. Checked
            before training.
        train: How trials are trained.
        batch: Trials asked at a time. With it the search is the same for any number of workers; without it, a
            free worker gets the next trial at once.
        threads: CPU threads of a trial.
        executor: Where trials run: `serial`, `processes`; by default `processes` for more than one worker.
        keep: Best designs that are trained again, with `retrain`.
        retrain: How they are trained; by default as `train` with three times the epochs.
        pick: Objective by which one of the Pareto set is handed on; the first objective by default. `knee`
            takes the design nearest to the best of all objectives at once, each scaled to [0, 1] over the
            set.
    """

    space: Space = plugin_field("space")
    trials: int = field(default=20, validator=ge(1))
    objectives: tuple[str, ...] = field(default=("accuracy",), validator=min_len(1))
    limits: Mapping[str, float] = field(factory=dict, validator=deep_mapping(instance_of(str), gt(0)))
    train: Train = Train(epochs=8)
    batch: int | None = field(default=None, validator=optional(ge(1)))
    threads: int = field(default=1, validator=ge(1))
    executor: Executor | None = plugin_field("executor", default=None, placement=True)
    keep: int = field(default=1, validator=ge(1))
    retrain: Train | None = None
    pick: str | None = None

    kind: ClassVar[str] = "search"
    method_kind: ClassVar[str] = "searcher"
    method_base: ClassVar[type] = Searcher

    @property
    def goal(self) -> Goal:
        """What the driver is to search for."""
        return Goal(self.trials, self.objectives, self.limits, self.batch)

    @property
    def longer(self) -> Train:
        """How the best designs are trained."""
        return self.retrain or evolve(self.train, epochs=3 * self.train.epochs)

    def check(self, task: Task, inputs: Mapping[str, Artifact]) -> list[Problem]:
        problems = [
            Problem("objectives", f"unknown metric {name!r}; {nearest(name.removeprefix('-'), METRICS)}")
            for name in self.objectives
            if name.removeprefix("-") not in METRICS
        ]
        problems += [
            Problem(f"limits.{n}", f"unknown cost; {nearest(n, COSTS)}")
            for n in self.limits
            if n not in COSTS
        ]
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
        return problems

    def output(self, task: Task, inputs: Mapping[str, Artifact]) -> Artifact:
        return Artifact(NetworkSpec.of(self.space), task.info)

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        records, told = self._search(task, context)
        front = self._front(records)
        here = task.load(context.device)
        retrained = self._retrain_best(self._order(records, front), here, context)
        after = [
            evolve(r, metrics=r.metrics | {"accuracy": s.accuracy, "loss": s.loss}) for r, _, s in retrained
        ]
        record, network, _ = retrained[self._preference(after)[0]]
        metrics = {
            **judge(network, here),
            **weigh(network, here),
            "design": record.design,
            "trials": len([r for r in told if r["state"] in ("evaluated", "failed")]),
            "failed": len([r for r in told if r["state"] == "failed"]),
            "repeats": len([r for r in told if r["state"] == "repeat"]),
            "refused": len([r for r in told if r["state"] == "refused"]),
            "objectives": list(self.objectives),
            "front": [r.number for r in front],
            "history": told,
        }
        spec = NetworkSpec.of(self.space, record.design)
        learnt = trained_on(task.info.name, task.origins_of(task.train), task.train)
        artifact = Artifact(spec, task.info, metrics=metrics, provenance=Provenance(trained_on=(learnt,)))
        return artifact.with_state(network)

    def _search(self, task: Task, context: Context) -> tuple[list[Record], list[dict[str, Any]]]:
        goal = self.goal
        sampler = self.method.sampler(context.derive("searcher"), goal.directions, SpaceView(self.space))
        path = context.folder / "study.db" if context.folder else None
        if context.executor is None:
            raise StageError("a search needs an executor, the context has none")
        with open_study(path, self.name, goal.directions, sampler) as study:
            driver = Driver(
                goal,
                self.space,
                task,
                self.train,
                study,
                context,
                self.executor or context.executor,
                self.threads,
            )
            return driver.run(), read_records(study)

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
        fit(
            Trainee(network, cross_entropy(network, self.longer)),
            task.train,
            task.info,
            self.longer,
            evolve(context, seed=seed),
            f"trial {record.number} again",
            lambda: evaluate(network, task.validation, task.info).accuracy,
        )
        return record, network, evaluate(network, task.validation, task.info)


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    """Offer the kind `search`."""
    return {"search": SearchStage}
