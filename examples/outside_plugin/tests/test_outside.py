"""All plugins of the distribution keep the duties of their kinds."""

from learnforge import Plugins
from learnforge_outside.anneal import Anneal
from learnforge_outside.standard import Standard
from learnforge_testing import DistillerSuite, HooksSuite, SearcherSuite


class TestAnneal(SearcherSuite):
    """Simulated annealing."""

    method = Anneal


class TestStandard(DistillerSuite):
    """Distillation of standardised logits."""

    method = Standard


class TestEpochTable(HooksSuite):
    """The tracker, as it is installed."""

    method = "epoch-table"


def test_the_methods_are_registered() -> None:
    """The entry points bring the classes."""
    plugins = Plugins()
    assert plugins.load("searcher", "anneal") is Anneal
    assert plugins.load("distiller", "standard") is Standard
