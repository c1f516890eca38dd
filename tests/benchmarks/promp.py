"""How much of what a policy could learn of a goal does one step of adaptation get?

Meta-trains policies for the point that must find a goal near a corner, and for goals that nobody trained on
compares the mean return before adaptation, after one step on some rollouts, and of a policy that is trained on
that goal alone by proximal policy optimisation. The share is how much of the gap between the first and the last
the step closes, for all goals together. Returns are of the same starts and noise for all three.

    python tests/benchmarks/promp.py --methods promp maml-pg --seeds 3
"""

from __future__ import annotations

import argparse

import torch

import learnforge as lf
from learnforge.environments import RolloutEpisodes
from learnforge.plugins import Plugins
from learnforge.randomness import seeded
from learnforge.stages.meta import ENGINES
from learnforge.stages.meta.adaptation import begin


def judge(artifact: lf.Artifact, goals: RolloutEpisodes, plugins: Plugins) -> tuple[float, float]:
    """Return the mean return on goals before and after adaptation."""
    network = artifact.network(plugins)
    learner = plugins.resolve("meta-learner", artifact.adapter_options["meta_learner"], "meta-learner", [])
    engine = ENGINES["vmap"](network, "support", learner)
    meta = {name: p.detach() for name, p in network.named_parameters()}
    begun = begin(goals, engine, meta)
    end = learner.adapt(engine, meta, begun.support)[-1].expanded(len(goals.indices))
    return tuple(float(begun.rollout(own, "query").returns.mean()) for own in (begun.initial, end))


def train_alone(
    goals: lf.EpisodeSource, numbers: torch.Tensor, seed: int, batches: int, plugins: Plugins
) -> float:
    """Train a policy for each goal by itself, all at a time; return their mean return in the end."""
    task = lf.load_task("point")
    learner = lf.load_method("meta-learner.promp")()
    with seeded(seed):
        network = lf.load_method("model.gaussian-policy")().build(task.info)
    engine = ENGINES["vmap"](network, "support", learner)
    leaves = {
        name: p.detach().expand(len(numbers), *p.shape).clone().requires_grad_()
        for name, p in network.named_parameters()
    }
    optimizer = torch.optim.Adam(leaves.values(), 3e-3)
    drawn = goals.draw(seed, numbers)
    for batch in range(batches):
        own = {name: leaf.detach().clone() for name, leaf in leaves.items()}
        begun = begin(drawn, engine, {name: own[name][0] for name in engine.names})
        data = begun.rollout(own, f"alone {batch}")
        for _ in range(5):
            now = lf.FastWeights({name: leaf.detach() for name, leaf in leaves.items()})
            found = engine.judge(now, data, data).gradients
            for name, leaf in leaves.items():
                leaf.grad = found[name]
            optimizer.step()
    end = {name: leaf.detach() for name, leaf in leaves.items()}
    return float(begun.rollout(end, "query").returns.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["promp", "maml-pg"])
    parser.add_argument("--world", default="corner")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--goals", type=int, default=20)
    parser.add_argument(
        "--batches", type=int, default=200, help="batches of rollouts that a goal is trained on alone"
    )
    parser.add_argument("--stage", nargs="*", default=[], help="settings of the stage, name=value")
    asked = parser.parse_args()
