"""How much of what a policy could learn of a goal does one step of adaptation get?

Runs the recipe `point` for each method and seed. Then, for goals that nobody trained on, it compares the
mean return before adaptation, after one step on 20 rollouts, and of policies that are trained on each goal
alone, by the same clipped objective from fresh weights. The share is how much of the gap between the first
and the last the step closes, for all goals together. All three are judged with the same starts and noise.
Runs are kept, so a call that was cut off goes on.

    python tests/benchmarks/promp.py --methods promp maml-pg --seeds 3
"""

from __future__ import annotations

import argparse
import tomllib
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

import learnforge as lf
from learnforge.plugins.registry import Plugins
from learnforge.randomness import derive, seeded
from learnforge_kit.data.environments import RolloutEpisodes
from learnforge_kit.engines.choice import ENGINES
from learnforge_kit.engines.learner import begin

EVALUATED = 1000
"""Seed of the goals and the noise that all policies are judged with."""


def draw_goals(task: lf.Task, count: int) -> RolloutEpisodes:
    """Return test goals with 20 rollouts before adaptation and 40 after it."""
    assert task.episodes is not None
    source = task.episodes("test", lf.EpisodeShape(1, 20, 40), torch.device("cpu"))
    goals = source.draw(EVALUATED, torch.arange(count))
    assert isinstance(goals, RolloutEpisodes)
    return goals


def judge(artifact: lf.Artifact, goals: RolloutEpisodes, plugins: Plugins) -> list[float]:
    """Return the mean return on goals before and after adaptation."""
    network = artifact.network(plugins)
    learner = plugins.resolve("meta-learner", artifact.adapter_options["meta_learner"], "meta-learner", [])
    engine = ENGINES["vmap"](network, "support", learner)
    meta = {name: p.detach() for name, p in network.named_parameters()} | dict(artifact.adapter)
    begun = begin(goals, engine, meta)
    assert isinstance(begun, RolloutEpisodes)
    adapted = learner.adapt(engine, meta, begun.support)[-1].expanded(len(goals.indices))
    return [float(begun.rollout(own, "query").returns.mean()) for own in (begun.initial, adapted)]


def train_alone(task: lf.Task, model: lf.Model, goals: RolloutEpisodes, seed: int, batches: int) -> float:
    """Train a policy for each goal by itself, all at a time; return their mean return in the end."""
    count = len(goals.indices)
    with seeded(derive(seed, "alone")):
        network = model.build(task.info)
    engine = ENGINES["vmap"](network, "support", lf.load_method("meta-learner.promp")(clip=0.2))
    fresh = {name: p.detach().expand(count, *p.shape) for name, p in network.named_parameters()}
    leaves = {name: t.clone().requires_grad_() for name, t in fresh.items()}
    optimizer = torch.optim.Adam(leaves.values(), 3e-3)  # each goal's numbers for itself
    begun = begin(goals, engine, {name: t[0] for name, t in fresh.items()})
    assert isinstance(begun, RolloutEpisodes)
    for batch in range(batches):
        data = begun.rollout({name: leaf.detach() for name, leaf in leaves.items()}, f"{seed} {batch}")
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - batch / batches)
        for _ in range(5):
            now = lf.FastWeights({name: leaf.detach() for name, leaf in leaves.items()})
            found = engine.judge(now, data, data).gradients
            for name, leaf in leaves.items():
                leaf.grad = found[name]
            optimizer.step()
    trained = {name: leaf.detach() for name, leaf in leaves.items()}
    return float(begun.rollout(trained, "query").returns.mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["promp", "maml-pg"])
    parser.add_argument("--world", default="corner", choices=["corner", "walls", "momentum"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--goals", type=int, default=20)
    parser.add_argument(
        "--batches", type=int, default=200, help="of rollouts that a goal alone is trained on"
    )
    parser.add_argument("--to", type=Path, default=Path("runs/promp"))
    asked = parser.parse_args()
    recipe: dict[str, Any] = tomllib.loads(
        resources.files("learnforge_plugins.recipes").joinpath("point.toml").read_text("utf-8")
    )
    recipe["task"]["world"] = asked.world
    model = lf.load_method("model.gaussian-policy")()
    plugins = Plugins()
    options = {name: value for name, value in recipe["task"].items() if name != "use"}
    task = lf.load_task("point", **options)
    goals = draw_goals(task, asked.goals)
    alone = [train_alone(task, model, goals, seed, asked.batches) for seed in range(asked.seeds)]
    print(f"trained on each of {asked.goals} goals alone: {spell(alone)}", flush=True)
    print("| method | before | after one step | share of the gap |\n|---|---|---|---|")
    for method in asked.methods:
        rows, curves = [], []
        for seed in range(asked.seeds):
            recipe["run"]["seed"] = seed
            recipe["stage"][0]["use"] = method
            if method != "promp":  # only its objective is for several steps on the same rollouts
                recipe["stage"][0] |= {"outer_steps": 1, "options": {}}
            run = lf.run(recipe, asked.to / f"{asked.world}-{method}-{seed}")
            artifact = run.artifacts["meta"]
            before, after = judge(artifact, goals, plugins)
            rows.append((before, after, (after - before) / (alone[seed] - before)))
            curves.append(artifact.metrics["history"]["meta"])
        shares = [f"{100 * share:.1f}" for *_, share in rows]
        columns = [spell([row[i] for row in rows]) for i in (0, 1)]
        print(f"| {method} | {columns[0]} | {columns[1]} | {', '.join(shares)} % |", flush=True)
        print("\nbatches: return after adaptation, mean and deviation over seeds")
        for entries in zip(*curves, strict=True):
            print(f"{entries[0]['epoch']:>6}  {spell([entry['return'] for entry in entries])}")


def spell(values: list[float]) -> str:
    """Spell mean and standard deviation."""
    return f"{mean(values):.1f} ± {stdev(values) if len(values) > 1 else 0.0:.1f}"


if __name__ == "__main__":
    main()
