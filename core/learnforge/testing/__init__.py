"""Conformance suites: what every method of a kind must keep to, for plugin authors to run over their own.

    from learnforge.testing import DistillerSuite

    class TestSoft(DistillerSuite):
        method = Soft

`learnforge conformance distiller.soft` runs the same checks without pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from learnforge.testing.command import CommandSuite
    from learnforge.testing.cost import CostSuite
    from learnforge.testing.distiller import DistillerSuite
    from learnforge.testing.executor import ExecutorSuite
    from learnforge.testing.exporter import ExporterSuite
    from learnforge.testing.hooks import HooksSuite
    from learnforge.testing.meta_learner import MetaLearnerSuite
    from learnforge.testing.model import ModelSuite
    from learnforge.testing.optuna_cases import OptunaSamplerCases
    from learnforge.testing.score import ScoreSuite
    from learnforge.testing.searcher import SearcherSuite
    from learnforge.testing.space import SpaceSuite
    from learnforge.testing.stage import StageSuite
    from learnforge.testing.table import TableSuite
    from learnforge.testing.task import TaskSuite
    from learnforge.testing.transfer import TransferSuite
    from learnforge.testing.validator import ValidatorSuite

_HOMES = {
    "CommandSuite": "command",
    "CostSuite": "cost",
    "DistillerSuite": "distiller",
    "ExecutorSuite": "executor",
    "ExporterSuite": "exporter",
    "HooksSuite": "hooks",
    "MetaLearnerSuite": "meta_learner",
    "ModelSuite": "model",
    "OptunaSamplerCases": "optuna_cases",
    "ScoreSuite": "score",
    "SearcherSuite": "searcher",
    "SpaceSuite": "space",
    "StageSuite": "stage",
    "TableSuite": "table",
    "TaskSuite": "task",
    "TransferSuite": "transfer",
    "ValidatorSuite": "validator",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'learnforge.testing' has no attribute {name!r}")
    return getattr(importlib.import_module(f"learnforge.testing.{_HOMES[name]}"), name)


__all__ = [
    "CommandSuite",
    "CostSuite",
    "DistillerSuite",
    "ExecutorSuite",
    "ExporterSuite",
    "HooksSuite",
    "MetaLearnerSuite",
    "ModelSuite",
    "OptunaSamplerCases",
    "ScoreSuite",
    "SearcherSuite",
    "SpaceSuite",
    "StageSuite",
    "TableSuite",
    "TaskSuite",
    "TransferSuite",
    "ValidatorSuite",
]
