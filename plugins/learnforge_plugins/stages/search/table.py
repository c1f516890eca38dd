"""Tabular benchmarks: searches whose trials are looked up, with a simulated clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import field, frozen

from learnforge.context import Context
from learnforge.kinds.space import Design, Space
from learnforge.kinds.table import Table
from learnforge_plugins.stages.search.objective import Objective, Place, TrialJob, TrialResult

VALIDATION = "validation"
"""The objective of a search over a table."""


@frozen(eq=False)
class TableObjective(Objective):
    """Looks trials up.

    Args:
        table: The table.
        space: The table's space.
    """

    table: Table
    space: Space = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "space", self.table.space())

    def predict_costs(self, design: Design, context: Context) -> Iterator[Mapping[str, float]]:
        yield self.table.predict_costs(design)

    def score(self, name: str, design: Design, context: Context) -> float:
        return self.table.predict_costs(design)[name]

    def evaluate(self, job: TrialJob, place: Place) -> TrialResult:
        found = self.table.train(job.design, job.choices)
        return TrialResult(job.number, {VALIDATION: found.validation}, found.seconds)
