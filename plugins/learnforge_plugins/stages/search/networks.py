"""Evaluates networks: costs on the meta device, scores and latency of fresh weights, and what an evaluator
finds out.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from attrs import field, frozen
from torch import Tensor

from learnforge.context import Checkpoint, Context
from learnforge.kinds.cost import Cost, CostMeter
from learnforge.kinds.evaluator import Evaluator, Trial
from learnforge.kinds.executor import Slot
from learnforge.kinds.form import form_of
from learnforge.kinds.score import Score
from learnforge.kinds.space import Design, Space
from learnforge.kinds.task import Task
from learnforge.plugins.identity import identify
from learnforge.plugins.registry import Plugins
from learnforge.randomness import derive, seeded
from learnforge.spec import TaskInfo
from learnforge_kit.costs.measuring import measure_cost, measure_latency
from learnforge_kit.data.normaliser import Normaliser
from learnforge_kit.drawing import permutation
from learnforge_kit.training.settings import Train
from learnforge_plugins.stages.search.evaluators import TrainEvaluator
from learnforge_plugins.stages.search.objective import (
    Objective,
    Place,
    Refused,
    TrialJob,
    TrialResult,
    refusal_of,
)

SCORED_IMAGES = 64
"""Training images that zero-cost scores see, at most."""


@frozen(eq=False)
class NetworkObjective(Objective):
    """Knows the costs and scores of a design's network, asks plugins whether it may be evaluated, and lets an
    evaluator judge it.

    Args:
        space: Builds networks.
        task: The task, its splits on the CPU.
        train: How a whole trial trains.
        seed: Seed of the search.
        stage: Name of the stage.
        threads: CPU threads of a trial, and of a measured latency.
        wanted: Metrics that objectives and limits use.
        costs: Costs that plugins bring.
        scores: Zero-cost scores to compute for every design.
        further_scores: Those that are only asked for by name.
        evaluator: Judges designs.
        shared: What it has prepared.
    """

    space: Space
    task: Task
    train: Train
    seed: int
    stage: str
    threads: int = 1
    wanted: frozenset[str] = frozenset()
    costs: tuple[CostMeter, ...] = ()
    scores: tuple[Score, ...] = ()
    further_scores: tuple[Score, ...] = ()
    evaluator: Evaluator = TrainEvaluator()
    shared: Mapping[str, Tensor] = field(factory=dict)
    _known: dict[tuple[str, str], float] = field(factory=dict, init=False, repr=False)

    @property
    def epochs(self) -> int:
        return self.train.epochs

    @property
    def measured_once(self) -> Sequence[str]:  # type: ignore[override]
        measured = [label_of(meter) for meter in self.costs if meter.needs_weights]
        return [name for name in ("latency_ms", *measured) if name in self.wanted]

    def predict_costs(self, design: Design, context: Context) -> Iterator[Mapping[str, float]]:
        try:
            with torch.device("meta"):
                network = self.space.build(design, self.task.info).eval()
                cost = measure_cost(network, self.task.info)
        except Exception as error:  # one design that its space cannot build must not end the search
            reason = f"cannot be built by {identify(self.space)}: {type(error).__name__}: {error}"
            raise refusal_of(error, reason) from error
        try:
            with torch.device("meta"):
                more = {
                    label_of(m): m.measure(network, self.task.info) for m in self.costs if not m.needs_weights
                }
        except Exception as error:
            words = f"its costs cannot be told: {type(error).__name__}: {error}"
            raise refusal_of(error, words) from error
        yield cost.as_metrics() | more
        self._ask_plugins(design, cost, context)
        for score in self.scores:
            label, value = label_of(score), self._scored(score, design, context)
            if math.isfinite(value):
                yield {label: value}
            elif label in self.wanted:
                raise Refused(f"{label} must be finite, it is {value}")

    def _ask_plugins(self, design: Design, cost: Cost, context: Context) -> None:
        hook = context.plugins.hook.learnforge_vet_design
        vetoed = hook(design=design, cost=cost, stage=context.stage)
        if vetoed:
            raise Refused(str(vetoed))

    def measure(self, name: str, design: Design, context: Context) -> float:
        try:
            with seeded(self.seed):
                network = self.space.build(design, self.task.info).to(context.device).eval()
            if name == "latency_ms":
                return measure_latency(network, self.task.info, threads=self.threads)
            meter = next(meter for meter in self.costs if label_of(meter) == name)
            return float(meter.measure(network, self.task.info))
        except Exception as error:  # of one design, which must not end the search
            words = f"{name} cannot be measured: {type(error).__name__}: {error}"
            raise refusal_of(error, words) from error

    def score(self, name: str, design: Design, context: Context) -> float:
        offered = [*self.scores, *self.further_scores]
        return self._scored(next(s for s in offered if label_of(s) == name), design, context)

    def _scored(self, score: Score, design: Design, context: Context) -> float:
        """Return a score, computed once for each design; one that is not finite counts as the lowest."""
        key = (label_of(score), repr(design))
        if key not in self._known:
            try:
                with seeded(self.seed):
                    network = self.space.build(design, self.task.info).to(context.device).train()
                    value = float(score.score(network, *self._sample(context)))
            except Exception as error:  # of one design, which must not end the search
                words = f"{label_of(score)} cannot be computed: {type(error).__name__}: {error}"
                raise refusal_of(error, words) from error
            self._known[key] = value if math.isfinite(value) else -math.inf
        return self._known[key]

    def _sample(self, context: Context) -> tuple[torch.Tensor, torch.Tensor]:
        split = self.task.train
        order = permutation(derive(self.seed, "scored images"), len(split))[:SCORED_IMAGES]
        images, labels, _ = next(iter(split.batches(order, SCORED_IMAGES)))
        shown = Normaliser(self.task.info, context.device)(images.to(context.device))
        return shown, labels.to(context.device)

    def set_up(self, slot: Slot, plugins: Plugins) -> tuple[Task, Mapping[str, Tensor]]:
        """Put the data and what trials share on the device."""
        device = torch.device(slot.device)
        return self.task.load(device), {name: tensor.to(device) for name, tensor in self.shared.items()}

    def evaluate(self, job: TrialJob, place: Place) -> TrialResult:
        start = time.perf_counter()
        task, shared = place.data
        seed, device = derive(self.seed, "trial", job.number), torch.device(place.slot.device)
        context = Context(stage=self.stage, seed=seed, device=device, plugins=place.plugins)
        kept = _Kept(job.state) if job.epochs is not None else None
        trial = Trial(job.number, job.design, self.space, task, self.train, shared, context, job.epochs, kept)
        with seeded(seed):
            found = self.evaluator.evaluate(trial)
        names = metrics_of(self.evaluator, task.info)
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(f"{type(self.evaluator).__name__}.evaluate leaves out {', '.join(missing)}")
        # costs and scores are known already, and are not its to say
        metrics = {name: float(found[name]) for name in names}
        state = kept.state if kept is not None else None
        return TrialResult(job.number, metrics, time.perf_counter() - start, state=state)


def metrics_of(evaluator: Evaluator, task: TaskInfo) -> Sequence[str]:
    """List what an evaluator finds out of a design."""
    return (*form_of(task.form).measured, "loss") if evaluator.metrics is None else evaluator.metrics


def label_of(meter: CostMeter | Score) -> str:
    """Return the name by which objectives and limits call a cost or a score."""
    own = meter.label if isinstance(meter, CostMeter) else ""
    return own or identify(meter).name


class _Kept(Checkpoint):
    """A checkpoint in memory, to be carried from one job of a trial to the next, wherever that runs."""

    def __init__(self, state: bytes | None):
        super().__init__(None)
        self.state = state

    def load(self, device: torch.device) -> dict[str, Any] | None:
        if self.state is None:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(self.state), map_location=device, weights_only=True)
        return state

    def save(self, make_state: Callable[[], Mapping[str, Any]], final: bool = False) -> None:
        if final:
            stream = io.BytesIO()
            torch.save(dict(make_state()), stream)
            self.state = stream.getvalue()
