"""Which designs may be evaluated: limits, plugins' vetoes, and the filter's bar, asked once for
each design.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from learnforge.context import Context
from learnforge.kinds.space import Design, design_key
from learnforge_plugins.stages.search.objective import Objective, Refused
from learnforge_plugins.stages.search.record import Goal

REMEMBERED = 50_000
"""Verdicts that are kept."""


class Admission:
    """Says why a design is refused. Searchers may ask too, so that they propose what can be evaluated.

    Args:
        goal: Limits and filter.
        objective: Knows costs and scores beforehand.
        context: For plugins' vetoes.

    Attributes:
        floor: The least score that the filter lets pass.
    """

    def __init__(self, goal: Goal, objective: Objective, context: Context):
        self.goal, self.objective, self.context = goal, objective, context
        self.floor = -math.inf
        self._verdicts: dict[tuple[str, float], tuple[str, dict[str, float]]] = {}

    def allows(self, design: Design) -> bool:
        """Tell whether a design may be evaluated."""
        return not self.refusal(design, design_key(design))[0]

    def refusal(self, design: Design, key: str) -> tuple[str, dict[str, float]]:
        """Return why the design of this key may not be evaluated, or "", and what is known beforehand."""
        place = (key, self.floor)
        if place not in self._verdicts:
            if len(self._verdicts) == REMEMBERED:
                self._verdicts.clear()
            self._verdicts[place] = self._judge(design)
        reason, metrics = self._verdicts[place]
        return reason, dict(metrics)

    def broken(self, metrics: Mapping[str, float]) -> str:
        """Say which limits are broken, of those whose metric is known."""
        limits = self.goal.limits
        known = {name: metrics[name] for name in limits if name in metrics}
        over = [f"{n} {value:g} > {limits[n]:g}" for n, value in known.items() if not value <= limits[n]]
        return ", ".join(over)

    def _judge(self, design: Design) -> tuple[str, dict[str, float]]:
        metrics: dict[str, float] = {}
        try:
            for found in self.objective.predict_costs(design, self.context):
                metrics.update(found)
                if reason := self.broken(metrics):
                    return reason, metrics
        except Refused as refused:
            return str(refused), metrics
        wanted = self.goal.filter
        if wanted is not None and self.floor > -math.inf:
            score = self.objective.score(wanted.score, design, self.context)
            if score < self.floor:
                return f"{wanted.score} {score:.4g} < {self.floor:.4g}, the filter's bar", metrics
        return "", metrics
