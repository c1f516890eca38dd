"""Architecture search: the kind of stage `search` and the hole that a searcher fills."""

from learnforge.stages.search.pareto import best_first, non_dominated_rank
from learnforge.stages.search.sampler import HistorySampler, draw, generator
from learnforge.stages.search.searcher import Searcher
from learnforge.stages.search.stage import SearchStage, learnforge_stages
from learnforge.stages.search.view import Candidate, SpaceView

__all__ = [
    "Candidate",
    "HistorySampler",
    "SearchStage",
    "Searcher",
    "SpaceView",
    "best_first",
    "draw",
    "generator",
    "learnforge_stages",
    "non_dominated_rank",
]
