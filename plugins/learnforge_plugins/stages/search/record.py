"""What a search is after, and what it notes of each trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, define, field, frozen
from attrs.validators import ge, gt, le

from learnforge.kinds.score import Score
from learnforge.kinds.space import Design
from learnforge.options.structure import plugin_field
from learnforge_plugins.stages.search.rungs import Rungs
from learnforge_plugins.stages.search.storage import Direction


@frozen
class WarmStart:
    """Begin a search with designs that a zero-cost score prefers.

    Args:
        candidates: Random designs to score, from 1; those that limits refuse do not count.
        score: The score, such as `logsynflow`.
        keep: Best of them to evaluate first, from 1.
    """

    score: Score = plugin_field("score")
    candidates: int = field(default=1000, validator=ge(1))
    keep: int = field(default=20, validator=ge(1))

    def __attrs_post_init__(self) -> None:
        if self.keep > self.candidates:
            raise ValueError(f"keep must be at most candidates = {self.candidates}, got {self.keep}")


@frozen
class Filter:
    """Refuse designs that a zero-cost score thinks little of, before they are trained.

    Args:
        score: The score, such as `naswot`.
        candidates: Random designs whose scores set the bar, from 1.
        keep: Share of random designs that pass, in (0, 1].
    """

    score: Score = plugin_field("score")
    candidates: int = field(default=100, validator=ge(1))
    keep: float = field(default=0.5, validator=[gt(0.0), le(1.0)])


@frozen
class Ranking:
    """What a warm start or a filter asks of the objective, the score by its name.

    Args:
        score: Name of the score.
        candidates: Random designs to score.
        keep: How many, or what share of them, are kept.
    """

    score: str
    candidates: int = field(validator=ge(1))
    keep: float = field(validator=gt(0))


@frozen
class Goal:
    """What a search is after.

    Args:
        trials: Distinct designs to evaluate.
        objectives: Names of metrics, a minus before those to make small.
        limits: Largest allowed costs, checked before training.
        batch: Trials asked at a time; None asks whenever a worker is free.
        rungs: When trials are stopped early; None trains all of them to the end.
        warm_start: What to begin with.
        filter: Which designs to refuse.
        seconds: Time of trials, as their objective says it, after which no further trial begins; for tables,
            whose clock is simulated.
    """

    trials: int
    objectives: tuple[str, ...]
    limits: Mapping[str, float]
    batch: int | None = None
    rungs: Rungs | None = None
    warm_start: Ranking | None = None
    filter: Ranking | None = None
    seconds: float | None = None

    @property
    def directions(self) -> list[Direction]:
        """Optuna's direction of each objective."""
        return ["minimize" if name.startswith("-") else "maximize" for name in self.objectives]

    @property
    def metrics(self) -> list[str]:
        """Names of the objectives without their sign."""
        return [name.removeprefix("-") for name in self.objectives]


@define(eq=False)
class Record:
    """What the driver knows of a trial; stored in the study as the attribute `learnforge`.

    Args:
        number: The trial's number.
        key: Key of its design.
        design: The design.
        state: `running`, `evaluated`, `stopped` (at a rung), `failed`, `refused` or `repeat`.
        metrics: Costs, and after training what the task's form measures, and loss.
        reason: Why it stopped, failed or was refused, or which trial it repeats.
        seconds: Training time.
        epochs: Epochs it was trained for, where rungs may stop it.
    """

    number: int
    key: str
    design: Design
    state: str = "running"
    metrics: dict[str, float] = field(factory=dict)
    reason: str = ""
    seconds: float = 0.0
    epochs: int | None = None

    @property
    def is_counted(self) -> bool:
        """Tell whether it is a distinct design that was evaluated, if not to a good end."""
        return self.state in ("evaluated", "stopped", "failed")

    def as_data(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return asdict(self)
