"""The evaluators that need nothing shared: training, and scores alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from attrs import frozen

from learnforge.hookspecs import hookimpl
from learnforge.kinds.evaluator import Evaluator, Trial
from learnforge.randomness import seeded
from learnforge_kit.training.loop import train_on_labels
from learnforge_kit.training.settling import evaluate_trained


@frozen
class TrainEvaluator(Evaluator):
    """Trains each design's network from scratch as `train` says, and judges it on validation data."""

    has_rungs: ClassVar[bool] = True

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        train, context = trial.train, trial.context
        with seeded(context.seed):
            network = trial.space.build(trial.design, trial.task.info).to(context.device)
        train_on_labels(
            network,
            trial.task,
            train,
            context,
            f"trial {trial.number}",
            is_validated=train.patience is not None or train.weights == "best",
            until=trial.until,
            checkpoint=trial.checkpoint,
        )
        scores = evaluate_trained(network, trial.task, train.batch_size, train.eval_batch_size)
        return {**scores.measures, "loss": scores.loss}


@frozen
class ScoreEvaluator(Evaluator):
    """Trains nothing: objectives are costs and zero-cost scores, which `scores` names."""

    metrics: ClassVar[Sequence[str]] = ()

    def evaluate(self, trial: Trial) -> Mapping[str, float]:
        return {}


@hookimpl
def learnforge_evaluators() -> dict[str, type[Evaluator]]:
    """Offer the evaluators `train`, which is the default, and `score`."""
    return {"train": TrainEvaluator, "score": ScoreEvaluator}
