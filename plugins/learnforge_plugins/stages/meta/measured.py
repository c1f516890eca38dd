"""What a meta stage measures; reports read it back by this record."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from learnforge_kit.measured import History, Measured, NetworkCosts, nested


@frozen(kw_only=True)
class Adapted(Measured):
    """Scores before and after adaptation, as mean and half of the 95 % confidence interval.

    Args:
        before: Score before adaptation.
        before_interval: Its interval.
        after: Score after the last step.
        after_interval: Its interval.
    """

    before: float
    before_interval: float
    after: float
    after_interval: float


@frozen(kw_only=True)
class Adaptation(Adapted):
    """How adaptation does over many episodes; see also `Adapted`.

    Args:
        episodes: How many.
        by_step: [score, interval] after 0, 1, … steps.
    """

    episodes: int
    by_step: Sequence[Sequence[float]]


@frozen(kw_only=True)
class MetaLearnt(Measured):
    """What a meta stage measures.

    Args:
        ways: Classes in an episode.
        shots: Labelled examples of each.
        normalisation: Which batch statistics are used.
        seen_upstream: Test classes that an earlier stage was trained on.
        engine: The engine that trained.
        measure: What scores are: `accuracy` in [0, 1], `loss` or `return`.
        test: On test episodes.
        costs: Of the network.
        history: Of meta-training.
        validation: On validation episodes.
        validation_is_seen: Whether those are of classes that were trained on.
        by_shots: [shots, score after adaptation, interval], by shots.
    """

    ways: int
    shots: int
    normalisation: str
    seen_upstream: Sequence[str]
    engine: str
    measure: str
    test: Adaptation = nested(Adaptation)
    costs: NetworkCosts | None = nested(NetworkCosts, prefix="", default=None)
    history: History
    validation: Adaptation | None = nested(Adaptation, default=None)
    validation_is_seen: bool | None = None
    by_shots: Sequence[Sequence[float]] | None = None
