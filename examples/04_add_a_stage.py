"""Bring a kind of stage: magnitude pruning, between distillation and export. `--plugin` loads it too."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import ge, lt

import learnforge as lf
import learnforge_kit as kit


@frozen(kw_only=True)
class PruneStage(lf.Stage):
    """Set the smallest weights of every layer to zero (Han et al., 2015, arXiv:1506.02626).

    Args:
        source: TOML key `from`: what to prune; the stage above by default.
        sparsity: Share of the weights to set to zero, in [0, 1).
    """

    source: lf.Reference = lf.plugin_field("model", default=None, reference=True, key="from")
    sparsity: float = field(default=0.5, validator=[ge(0.0), lt(1.0)])
    kind: ClassVar[str] = "prune"

    def run(self, task: lf.Task, inputs: Mapping[str, lf.Artifact], context: lf.Context) -> lf.Artifact:
        network = inputs["source"].network(context.plugins).eval()
        with torch.no_grad():
            for weight in (p for p in network.parameters() if p.dim() > 1):
                smallest = weight.abs().flatten().topk(int(self.sparsity * weight.numel()), largest=False)
                weight.view(-1)[smallest.indices] = 0
        accuracy = kit.evaluate(network, task.test, task.info).accuracy
        return evolve(inputs["source"], metrics={"test_accuracy": accuracy}).with_state(network)


@lf.hookimpl
def learnforge_stages() -> dict[str, type[lf.Stage]]:
    return {"prune": PruneStage}


RECIPE = {
    "run": {"name": "pruned"},
    "task": {"use": "digits", "classes": [0, 1, 2]},
    "stage": [
        {"kind": "distill", "use": "kd", "teacher": {"use": "conv4", "width": 8}, "teacher_train": {},
         "student": {"use": "conv4", "width": 8, "blocks": 2}, "train": {"epochs": 15}, "baseline": False},
        {"kind": "prune", "sparsity": 0.3},
        {"kind": "export", "use": "torch-export"},
    ],
}  # fmt: skip


def main() -> lf.Run:
    run = lf.run(RECIPE, plugins=lf.PluginChoice(files=[__file__]))
    print(f"pruned: {run.artifacts['prune'].metrics['test_accuracy']:.1%}")
    return run


if __name__ == "__main__":
    main()
