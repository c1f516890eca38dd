"""learnforge: search a network, distil it, transfer it, teach it to learn from a few examples, export it.

    import learnforge as lf
    digits = lf.load_task("digits")
    found = lf.search(digits, space="residual", method="evolution", trials=24)
    small = lf.distill(found, student="mobilenet", method="kd")

Names are imported when they are first used, so `import learnforge` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnforge.api import (
        adapt,
        distill,
        export,
        load,
        load_method,
        load_task,
        meta_train,
        run,
        search,
        transfer,
    )
    from learnforge.artifact import Artifact
    from learnforge.blocks import find_blocks
    from learnforge.connectors import Connector, Pairs, match_extent, pair_stages
    from learnforge.context import Context, Executor, Slot
    from learnforge.cut import Cut, pool
    from learnforge.encoding import encode
    from learnforge.environments import Estimation, Experience, RolloutEpisodes, Trajectories, World
    from learnforge.episodes import Episodes, EpisodeShape, EpisodeSource, ImageEpisodes, Labelled
    from learnforge.errors import (
        ArtifactError,
        DivergedError,
        ExportMismatchError,
        GapWarning,
        LearnforgeError,
        LearnforgeWarning,
        PluginError,
        PluginWarning,
        RecipeError,
        RunError,
        StageError,
        TaskError,
    )
    from learnforge.evaluation import evaluate
    from learnforge.features import cut_at, extract_features
    from learnforge.heads import find_head, replace_head, replace_stem
    from learnforge.hookspecs import hookimpl, hookspec
    from learnforge.layers import Layers
    from learnforge.meters import CostMeter, Score, layer_signatures
    from learnforge.options import plugin_field
    from learnforge.plugins import PluginChoice, Plugins
    from learnforge.report import Picture, RunSummary, Section
    from learnforge.runner import Run
    from learnforge.space import Cost, Model, Pick, Space
    from learnforge.stages.distill import Distiller, label_loss
    from learnforge.stages.export import Exporter, Runtime
    from learnforge.stages.meta import (
        Engine,
        FastWeights,
        HeadLearner,
        MetaGradient,
        MetaLearner,
        adapt_policy,
    )
    from learnforge.stages.meta.engine import Parameters
    from learnforge.stages.search import (
        FreshSampler,
        HistorySampler,
        HistoryView,
        IndependentSampler,
        Published,
        Searcher,
        SpaceView,
        Table,
        Trained,
        best_first,
        generator,
    )
    from learnforge.stages.search.view import Candidate, mutate, neighbours
    from learnforge.stages.stage import Reference, Stage
    from learnforge.stages.transfer import (
        DirectTransfer,
        DomainAdaptation,
        Evidence,
        Phase,
        PhasedTransfer,
        Transfer,
        Validator,
        adversarial_strength,
        reverse_gradient,
    )
    from learnforge.taps import Outputs
    from learnforge.task import (
        Batch,
        MemorySplit,
        Split,
        StreamSplit,
        Task,
        TaskInfo,
        TaskSource,
        measure_channels,
    )
    from learnforge.training import Train

_HOMES = {
    "api": (
        "adapt",
        "distill",
        "export",
        "load",
        "load_method",
        "load_task",
        "meta_train",
        "run",
        "search",
        "transfer",
    ),
    "artifact": ("Artifact",),
    "blocks": ("find_blocks",),
    "connectors": ("Connector", "Pairs", "match_extent", "pair_stages"),
    "context": ("Context", "Executor", "Slot"),
    "cut": ("Cut", "pool"),
    "encoding": ("encode",),
    "environments": ("Estimation", "Experience", "RolloutEpisodes", "Trajectories", "World"),
    "episodes": ("EpisodeShape", "EpisodeSource", "Episodes", "ImageEpisodes", "Labelled"),
    "errors": (
        "ArtifactError",
        "DivergedError",
        "ExportMismatchError",
        "GapWarning",
        "LearnforgeError",
        "LearnforgeWarning",
        "PluginError",
        "PluginWarning",
        "RecipeError",
        "RunError",
        "StageError",
        "TaskError",
    ),
    "evaluation": ("evaluate",),
    "features": ("cut_at", "extract_features"),
    "heads": ("find_head", "replace_head", "replace_stem"),
    "hookspecs": ("hookimpl", "hookspec"),
    "layers": ("Layers",),
    "options": ("plugin_field",),
    "plugins": ("PluginChoice", "Plugins"),
    "report": ("Picture", "RunSummary", "Section"),
    "runner": ("Run",),
    "space": ("Cost", "Model", "Pick", "Space"),
    "stages.distill": ("Distiller", "label_loss"),
    "stages.export": ("Exporter", "Runtime"),
    "stages.meta": ("Engine", "FastWeights", "HeadLearner", "MetaGradient", "MetaLearner", "adapt_policy"),
    "stages.meta.engine": ("Parameters",),
    "meters": ("CostMeter", "Score", "layer_signatures"),
    "stages.search": (
        "FreshSampler",
        "HistorySampler",
        "HistoryView",
        "IndependentSampler",
        "Published",
        "Searcher",
        "SpaceView",
        "Table",
        "Trained",
        "best_first",
        "generator",
    ),
    "stages.search.view": ("Candidate", "mutate", "neighbours"),
    "stages.stage": ("Reference", "Stage"),
    "stages.transfer": (
        "DirectTransfer",
        "DomainAdaptation",
        "Evidence",
        "Phase",
        "PhasedTransfer",
        "Transfer",
        "Validator",
        "adversarial_strength",
        "reverse_gradient",
    ),
    "taps": ("Outputs",),
    "task": (
        "Batch",
        "MemorySplit",
        "Split",
        "StreamSplit",
        "Task",
        "TaskInfo",
        "TaskSource",
        "measure_channels",
    ),
    "training": ("Train",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'learnforge' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"learnforge.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


__all__ = [
    "Artifact",
    "ArtifactError",
    "Batch",
    "Candidate",
    "Connector",
    "Context",
    "Cost",
    "CostMeter",
    "Cut",
    "DirectTransfer",
    "Distiller",
    "DivergedError",
    "DomainAdaptation",
    "Engine",
    "EpisodeShape",
    "EpisodeSource",
    "Episodes",
    "Estimation",
    "Evidence",
    "Executor",
    "Experience",
    "ExportMismatchError",
    "Exporter",
    "FastWeights",
    "FreshSampler",
    "GapWarning",
    "HeadLearner",
    "HistorySampler",
    "HistoryView",
    "ImageEpisodes",
    "IndependentSampler",
    "Labelled",
    "Layers",
    "LearnforgeError",
    "LearnforgeWarning",
    "MemorySplit",
    "MetaGradient",
    "MetaLearner",
    "Model",
    "Outputs",
    "Pairs",
    "Parameters",
    "Phase",
    "PhasedTransfer",
    "Pick",
    "Picture",
    "PluginChoice",
    "PluginError",
    "PluginWarning",
    "Plugins",
    "Published",
    "RecipeError",
    "Reference",
    "RolloutEpisodes",
    "Run",
    "RunError",
    "RunSummary",
    "Runtime",
    "Score",
    "Searcher",
    "Section",
    "Slot",
    "Space",
    "SpaceView",
    "Split",
    "Stage",
    "StageError",
    "StreamSplit",
    "Table",
    "Task",
    "TaskError",
    "TaskInfo",
    "TaskSource",
    "Train",
    "Trained",
    "Trajectories",
    "Transfer",
    "Validator",
    "World",
    "adapt",
    "adapt_policy",
    "adversarial_strength",
    "best_first",
    "cut_at",
    "distill",
    "encode",
    "evaluate",
    "export",
    "extract_features",
    "find_blocks",
    "find_head",
    "generator",
    "hookimpl",
    "hookspec",
    "label_loss",
    "layer_signatures",
    "load",
    "load_method",
    "load_task",
    "match_extent",
    "measure_channels",
    "meta_train",
    "mutate",
    "neighbours",
    "pair_stages",
    "plugin_field",
    "pool",
    "replace_head",
    "replace_stem",
    "reverse_gradient",
    "run",
    "search",
    "transfer",
]
