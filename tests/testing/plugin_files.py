"""Texts of plugin files that the tests of suites load: good ones, and ones that break a single duty."""

TRACKER = """
from learnforge import Section, hookimpl

heard = []

@hookimpl
def learnforge_epoch_finished(stage, metrics):
    heard.append((stage, metrics["epoch"]))

@hookimpl
def learnforge_report_sections(run):
    return [Section("Heard", f"{len(heard)} epochs")]
"""

VETO = """
from learnforge import hookimpl

@hookimpl
def learnforge_vet_design(design):
    return "too wide" if design["stages"][0]["width"] > 1000 else None
"""

PRUNE = '''
"""Magnitude pruning: the smallest weights become zero.

Reference:
    Han, Pool, Tran & Dally, Learning both weights and connections, 2015. arXiv:1506.02626
"""

from typing import ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import ge, lt

from learnforge import Artifact, Stage, hookimpl
from learnforge.options.structure import plugin_field

@frozen(kw_only=True)
class PruneStage(Stage):
    """Set the smallest weights of every matrix to zero.

    Args:
        source: TOML key `from`: what to prune; the stage above by default.
        sparsity: Share of the weights to remove, in [0, 1).
    """

    source: object = plugin_field("model", default=None, reference=True, key="from")
    sparsity: float = field(default=0.5, validator=[ge(0.0), lt(1.0)])

    kind: ClassVar[str] = "prune"

    def run(self, task, inputs, context):
        network = inputs["source"].network(context.plugins, context.derive("source"))
        with torch.no_grad():
            for weight in (p for p in network.parameters() if p.dim() > 1):
                count = int(self.sparsity * weight.numel())
                if count:
                    weight[weight.abs() <= weight.abs().flatten().kthvalue(count).values] = 0
        return evolve(inputs["source"], metrics={}).with_state(network)

@hookimpl
def learnforge_stages():
    return {"prune": PruneStage}
'''
