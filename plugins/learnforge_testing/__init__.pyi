"""The public names, each imported from its home when it is first used."""

from .direct_searcher import DirectSearcherSuite as DirectSearcherSuite
from .hooks import HooksSuite as HooksSuite
from .optuna_cases import OptunaSamplerCases as OptunaSamplerCases
from .suites.change import ChangeSuite as ChangeSuite
from .suites.command import CommandSuite as CommandSuite
from .suites.cost import CostSuite as CostSuite
from .suites.distiller import DistillerSuite as DistillerSuite
from .suites.evaluator import EvaluatorSuite as EvaluatorSuite
from .suites.executor import ExecutorSuite as ExecutorSuite
from .suites.exporter import ExporterSuite as ExporterSuite
from .suites.form import FormSuite as FormSuite
from .suites.meta_learner import MetaLearnerSuite as MetaLearnerSuite
from .suites.model import ModelSuite as ModelSuite
from .suites.optimizer import OptimizerSuite as OptimizerSuite
from .suites.score import ScoreSuite as ScoreSuite
from .suites.searcher import SearcherSuite as SearcherSuite
from .suites.space import SpaceSuite as SpaceSuite
from .suites.stage import StageSuite as StageSuite
from .suites.table import TableSuite as TableSuite
from .suites.task import TaskSuite as TaskSuite
from .suites.transfer import TransferSuite as TransferSuite
from .suites.validator import ValidatorSuite as ValidatorSuite
