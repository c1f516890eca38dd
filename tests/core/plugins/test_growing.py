"""A plugin may bring a kind of stage that takes methods of a kind of its own, which further plugins bring."""

from __future__ import annotations

import sys
from typing import ClassVar

import pytest
from tests.testing.plugin_files import PRUNE

import learnforge as lf
from learnforge import PluginChoice, PluginError, Plugins, RecipeError
from learnforge_plugins.commands.doctor import load_all

STAGE = PRUNE.replace(
    'kind: ClassVar[str] = "prune"',
    'kind: ClassVar[str] = "prune"\n    method_kind: ClassVar[str] = "pruner"',
)
STAGE = (
    STAGE.replace("int(self.sparsity * weight.numel())", "int(self.method.share * weight.numel())")
    + """
import pluggy

class Specs:
    @pluggy.HookspecMarker("learnforge")
    def learnforge_pruners(self): "Offer pruners (entry point `pruner.NAME`)."

@hookimpl
def learnforge_add_hooks(manager): manager.add_hookspecs(Specs)
"""
)
PRUNER = """
from attrs import frozen
from learnforge import hookimpl

@frozen
class Share:
    share: float = 0.5

@hookimpl
def learnforge_pruners(): return {"share": Share}
"""
RECIPE = {
    "run": {"device": "cpu"},
    "task": {"use": "digits", "classes": [0, 1]},
    "stage": [
        {"kind": "prune", "use": "share", "options": {"share": 0.25}, "from": {"use": "conv4", "width": 4}}
    ],
}


@pytest.fixture(autouse=True)
def forget():
    """Forget the modules of plugin files."""
    yield
    for name in [name for name in sys.modules if name.startswith("learnforge_plugin_")]:
        del sys.modules[name]


def zeros(run):
    weights = [t for t in run.artifacts["prune"].weights.values() if t.dim() > 1]
    return sum(int((t == 0).sum()) for t in weights) / sum(t.numel() for t in weights)


def test_a_new_kind_out_of_files(tmp_path):
    """A stage in one file takes a method in another, with options that are checked as any method's."""
    files = [tmp_path / "prune.py", tmp_path / "share.py"]
    for file, text in zip(files, (STAGE, PRUNER), strict=True):
        file.write_text(text)
    choice = PluginChoice(files=files)
    assert abs(zeros(lf.run(RECIPE, plugins=choice)) - 0.25) < 0.02
    wrong = {**RECIPE, "stage": [{**RECIPE["stage"][0], "options": {"shre": 1}}]}
    with pytest.raises(RecipeError, match=r"stage.prune.options.shre: unknown option; did you mean 'share'"):
        lf.run(wrong, plugins=choice)
    assert Plugins(choice).names("pruner") == ["share"]
    other = {**RECIPE, "stage": [{**RECIPE["stage"][0], "use": "shore"}]}
    with pytest.raises(RecipeError, match=r"there is no pruner 'shore'; did you mean 'share'"):
        lf.run(other, plugins=choice)


def test_a_new_kind_out_of_packages(install):
    """Installed, the same works by entry points; without the stage's plugin the kind is unknown."""
    install("lf-test-a", {"stage.prune": "lf_test_stage"}, {"lf_test_stage": STAGE})
    install("lf-test-b", {"pruner.share": "lf_test_share"}, {"lf_test_share": PRUNER})
    assert abs(zeros(lf.run(RECIPE)) - 0.25) < 0.02
    with pytest.raises(PluginError, match=r"'pruner.share' of lf-test-b 1.0 implements an unknown hook"):
        Plugins().load("pruner", "share")
    assert Plugins(PluginChoice(enable=("stage.prune",))).load("pruner", "share").__name__ == "Share"
    assert {standing.status for standing in load_all(Plugins())} == {"loaded"}


def test_hooks_added_in_python(tmp_path):
    """An object may listen, veto designs and show sections; what acts in workers, or nothing, is refused."""

    class Listener:
        heard: ClassVar[list[str]] = []

        @lf.hookimpl
        def learnforge_stage_finished(self, stage):
            self.heard.append(stage)

    class Remote:
        @lf.hookimpl
        def learnforge_batch(self, batch):
            return batch

    stage = {"kind": "transfer", "use": "fine-tune", "from": {"use": "conv4", "width": 4}}
    lf.run({**RECIPE, "stage": [{**stage, "train": {"epochs": 1}, "baseline": False}]}, hooks=[Listener()])
    assert Listener.heard == ["transfer"]
    plugins = Plugins()
    with pytest.raises(
        PluginError, match=r"Remote cannot be added in Python: `learnforge_batch` acts in workers"
    ):
        plugins.add(Remote())
    with pytest.raises(PluginError, match=r"object cannot be added in Python: it has no hook"):
        plugins.add(object())
    with pytest.raises(PluginError, match=r"dict cannot be added in Python: it must be hashable"):
        plugins.add({})
    assert plugins.changing() == []


def test_a_veto_added_in_python_counts_in_fingerprints():
    """What changes results counts with what it holds: another bound is another run."""

    class Veto:
        def __init__(self, bound):
            self.bound = bound

        def __repr__(self):
            return f"Veto({self.bound})"

        @lf.hookimpl
        def learnforge_vet_design(self, cost):
            return "too large" if cost.parameters > self.bound else None

    identities = []
    for bound in (1, 1, 2):
        plugins = Plugins()
        plugins.add(Veto(bound))
        identities.append(plugins.changing())
    assert identities[0] == identities[1] != identities[2]
