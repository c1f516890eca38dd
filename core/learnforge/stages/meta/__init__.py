"""Meta-learning: the kind of stage `meta`, the hole that a meta-learner fills, and the engine that it
computes with.
"""

from learnforge.stages.meta.adaptation import adapt_artifact, adapt_policy, judge_left_out, with_ways
from learnforge.stages.meta.engine import Engine, FastWeights, Step
from learnforge.stages.meta.learner import HeadLearner, MetaGradient, MetaLearner
from learnforge.stages.meta.normalisation import POLICIES, prepare_normalisation
from learnforge.stages.meta.roads import ENGINES
from learnforge.stages.meta.stage import MEASURES, MetaStage, learnforge_stages

__all__ = [
    "ENGINES",
    "MEASURES",
    "POLICIES",
    "Engine",
    "FastWeights",
    "HeadLearner",
    "MetaGradient",
    "MetaLearner",
    "MetaStage",
    "Step",
    "adapt_artifact",
    "adapt_policy",
    "judge_left_out",
    "learnforge_stages",
    "prepare_normalisation",
    "with_ways",
]
