"""Architecture search: the kind of stage `search` and the hole that a searcher fills."""

from learnforge.stages.search.pareto import best_first, non_dominated_rank
from learnforge.stages.search.sampler import (
    FreshSampler,
    HistorySampler,
    IndependentSampler,
    draw,
    generator,
    split_history,
)
from learnforge.stages.search.searcher import Searcher
from learnforge.stages.search.stage import SearchStage, learnforge_stages
from learnforge.stages.search.table import Published, Table, Trained
from learnforge.stages.search.view import Candidate, HistoryView, SpaceView, neighbours

__all__ = [
    "Candidate",
    "FreshSampler",
    "HistorySampler",
    "HistoryView",
    "IndependentSampler",
    "Published",
    "SearchStage",
    "Searcher",
    "SpaceView",
    "Table",
    "Trained",
    "best_first",
    "draw",
    "generator",
    "learnforge_stages",
    "neighbours",
    "non_dominated_rank",
    "split_history",
]
