"""What stages measure that hand on a network for a task; reports read it back by these records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from learnforge_kit.measured import Assessment, History, Measured, NetworkCosts, nested


@frozen(kw_only=True)
class Trials(Measured):
    """The trials of a search: of architectures, of a stage's options, or of a student.

    Args:
        objectives: What was searched for, a minus before what shall be small.
        history: What became of each trial: number, state, design, metrics, seconds.
        trials: Designs that were evaluated, those that failed or were stopped among them.
        failed: Those that failed.
        stopped: Those that were stopped early.
        refused: Designs that were refused untrained.
        repeats: Designs that were proposed again, and not trained again.
        front: Numbers of the trials in the Pareto set; None where none was chosen from.
        searcher: Name of the searcher's class; None where it is the stage's own method.
        design: The design that was chosen.
        options: {option: value that was chosen}, of a search over a stage's options.
    """

    objectives: Sequence[str]
    history: Sequence[Mapping[str, Any]]
    trials: int = 0
    failed: int = 0
    stopped: int = 0
    refused: int = 0
    repeats: int = 0
    front: Sequence[int] | None = None
    searcher: str | None = None
    design: Mapping[str, Any] | None = None
    options: Mapping[str, Any] | None = None

    @classmethod
    def counted(cls, objectives: Sequence[str], history: Sequence[Mapping[str, Any]], **more: Any) -> Trials:
        """Count what became of the trials of a history."""
        more |= count_states(history)
        return cls(objectives=list(objectives), history=history, **more)


@frozen(kw_only=True)
class Searched(Measured):
    """What a search stage measures.

    Args:
        assessment: Of the network that it hands on.
        costs: Of that network.
        search: The trials.
    """

    assessment: Assessment = nested(Assessment, prefix="")
    costs: NetworkCosts = nested(NetworkCosts, prefix="")
    search: Trials = nested(Trials, prefix="")


@frozen(kw_only=True)
class Unlabelled(Measured):
    """What judges a network without a label of the new task.

    Args:
        source_accuracy: Accuracy on the labelled task's validation images, in [0, 1]; for other forms than
            classification what the form measures first.
        validator: The validator's score; None without one.
    """

    source_accuracy: float
    validator: float | None = None

    @property
    def score(self) -> float:
        """What stages are chosen by: the validator's score, or else the accuracy."""
        return self.source_accuracy if self.validator is None else self.validator


@frozen(kw_only=True)
class Baseline(Measured):
    """What a baseline measures: a network that was trained without the stage's method.

    Args:
        assessment: Of the network.
        costs: Of the network, where they are not those of the stage's own.
        history: Of its training.
        unlabelled: What judges it without labels of the new task, of a domain adaptation.
    """

    assessment: Assessment = nested(Assessment, prefix="")
    costs: NetworkCosts | None = nested(NetworkCosts, prefix="", default=None)
    history: History
    unlabelled: Unlabelled | None = nested(Unlabelled, prefix="", default=None)


@frozen(kw_only=True)
class Distilled(Measured):
    """What a distill stage measures.

    Args:
        assessment: Of the student.
        costs: Of the student.
        teacher: How the teacher, of several their mean, does.
        teacher_parameters: Those of all teachers together.
        teacher_macs: Multiply-adds of all teachers for one image.
        teacher_latency_ms: Milliseconds of all teachers for one image on one thread.
        capacity_ratio: The teachers' parameters over the student's.
        accuracy_gap: The teacher's validation accuracy less the student's, in [-1, 1].
        agreement: Share of test images for which both name the same class, in [0, 1].
        assistants: Models of the networks that taught between them, largest first.
        teacher_forwards: Views that the teacher was `asked` for, those `computed`, and the share `saved`.
        warnings: What was noticed of the pair.
        history: Of all trainings.
        baseline: How the student does without a teacher.
    """

    assessment: Assessment = nested(Assessment, prefix="")
    costs: NetworkCosts = nested(NetworkCosts, prefix="")
    teacher: Assessment = nested(Assessment, prefix="teacher_")
    teacher_parameters: int
    teacher_macs: int
    teacher_latency_ms: float
    capacity_ratio: float
    accuracy_gap: float
    agreement: float
    assistants: Sequence[Mapping[str, Any]]
    teacher_forwards: Mapping[str, float]
    warnings: Sequence[str]
    history: History
    baseline: Assessment | None = nested(Assessment, prefix="baseline_", default=None)


@frozen(kw_only=True)
class Transferred(Measured):
    """What a transfer stage measures.

    Args:
        assessment: Of the network on the new task.
        costs: Of the network.
        changes: What was changed to carry it over, in words.
        history: Of all trainings.
        pairs: [class of the labelled task, class of the new one], of a domain adaptation.
        unlabelled: What judges it without labels of the new task, of a domain adaptation.
        baseline: How the same network does from fresh weights.
        baseline_name: What the baseline is called.
    """

    assessment: Assessment = nested(Assessment, prefix="")
    costs: NetworkCosts = nested(NetworkCosts, prefix="")
    changes: Sequence[str]
    history: History
    pairs: Sequence[Sequence[str]] | None = None
    unlabelled: Unlabelled | None = nested(Unlabelled, prefix="", default=None)
    baseline: Assessment | None = nested(Assessment, prefix="baseline_", default=None)
    baseline_name: str | None = None


def count_states(told: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Count what became of the trials of a search.

    Args:
        told: The driver's notes.
    """
    states = [entry["state"] for entry in told]
    counts = {name: states.count(name) for name in ("failed", "stopped", "refused")}
    trials = states.count("evaluated") + counts["failed"] + counts["stopped"]
    return {"trials": trials, **counts, "repeats": states.count("repeat")}
