"""What every tabular benchmark must keep to: every design of its space has a row, and searches
run over it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from learnforge.kinds.searcher import Candidate, Searcher, View
from learnforge.kinds.space import Space
from learnforge.kinds.table import Published, Table
from learnforge.plugins.registry import Plugins
from learnforge_kit.search.view import SpaceView
from learnforge_plugins.commands.bench.entries import Entry
from learnforge_plugins.commands.bench.searchers import run_search
from learnforge_testing.landscapes import UniformSampler
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import require

DESIGNS = 200


TRAININGS = 20
"""Trainings that a search over the table may pay for."""


class TableSuite(MethodSuite):
    """Checks of a tabular benchmark, on random designs of its space."""

    kind: ClassVar[str] = "table"
    base: ClassVar[type] = Table

    def result(self) -> Any:
        table = self.make()
        rows = [table.train(c.design, c.choices) for c in self._candidates()[:20]]
        return [(row.validation, row.seconds) for row in rows]

    def test_space_is_a_space(self) -> None:
        """It has a space, the same each time."""
        spaces = [self.make().space() for _ in range(2)]
        require(isinstance(spaces[0], Space), f"`space` must give a Space, got {spaces[0]!r}")
        require(spaces[0] == spaces[1], "`space` must give the same space each time")

    def test_every_design_is_in_the_table(self) -> None:
        """Random designs of the space have a row: validation, seconds and test are finite,
        seconds above 0.
        """
        table = self.make()
        for candidate in self._candidates():
            try:
                row = table.train(candidate.design, candidate.choices)
                test = table.test(candidate.design, candidate.choices)
            except Exception as error:
                words = f"{candidate.design}: must be in the table, got {type(error).__name__}: {error}"
                raise AssertionError(words) from error
            finite = all(map(math.isfinite, (row.validation, row.seconds, test)))
            require(
                finite and row.seconds > 0, f"{candidate.design}: must have finite numbers, got {row}, {test}"
            )

    def test_best_is_not_beaten(self) -> None:
        """No random design is better than `best`."""
        table, best = self.make(), self.make().best()
        found = max(table.train(c.design, c.choices).validation for c in self._candidates())
        require(found <= best, f"`best` must be the best of the table, {best} < {found}")

    def test_scores_are_known_beforehand(self) -> None:
        """Every score that it names is a finite number of every design; what is known before has names."""
        table = self.make()
        for candidate in self._candidates()[:50]:
            known: Mapping[str, float] = table.predict_costs(candidate.design)
            missing = [name for name in table.scores() if name not in known]
            require(
                not missing,
                f"`predict_costs` must give the scores {', '.join(missing)}, it gives {list(known)}",
            )
            bad = [name for name, value in known.items() if not math.isfinite(value)]
            require(not bad, f"{candidate.design}: {', '.join(bad)} must be finite")

    def test_published_figures_name_their_source(self) -> None:
        """Figures to compare with say what they are and where they stand."""
        for figure in self.make().published():
            require(isinstance(figure, Published), f"must be a Published, got {figure!r}")
            require(figure.method and figure.source, f"must say method and source, got {figure}")

    def test_a_search_runs_over_it(self) -> None:
        """Random search finds something within a budget of 20 trainings, and does not go beyond it."""
        table = self.make()
        budget = TRAININGS * float(
            np.mean([table.train(c.design, c.choices).seconds for c in self._candidates()])
        )
        search = run_search(Entry("uniform", _Uniform()), table, 0, budget, True, Plugins())
        require(search.chosen(budget) is not None, "a search must find a design within 20 mean trainings")
        require(
            all(t <= budget for t in search.evaluated), "a search must not count what its budget did not pay"
        )

    def _candidates(self) -> list[Candidate]:
        view, rng = SpaceView(self.make().space()), np.random.default_rng(0)
        return [view.random(rng) for _ in range(DESIGNS)]


class _Uniform(Searcher):
    def sampler(self, seed: int, directions: Any, view: View | None = None) -> UniformSampler:
        return UniformSampler(seed)
