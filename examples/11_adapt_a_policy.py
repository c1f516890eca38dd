"""Meta-learn a policy for a point in the plane, and adapt it to a goal from twenty rollouts."""

from __future__ import annotations

import torch

import learnforge as lf
import learnforge_kit as kit


def main() -> tuple[float, float]:
    point = lf.load_method("task.point")(horizon=20)
    policy = lf.load_method("model.gaussian-policy")(hidden=(32,), deviation=0.3)
    method = lf.load_method("meta-learner.promp")(inner_rate=0.1, learned_rates=True)
    settings = {"iterations": 30, "tasks": 10, "outer_steps": 3, "learning_rate": 3e-3, "engine": "vmap"}
    learner = lf.meta_train(
        policy, method, point.load(), ways=1, shots=20, queries=20, test_episodes=400, **settings
    )
    goal = torch.tensor([[2.0, -1.5]])
    adapted, before = kit.adapt_policy(learner, point.goals(goal))
    network = adapted.network()

    def act(parameters: object, observed: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(observed.flatten(0, 1)).unflatten(0, observed.shape[:2])

    after = float(point.goals(goal, seed=1).begin(act, {}).support.returns)
    return before, after


if __name__ == "__main__":
    print("mean return before adaptation {:.1f}, after one step {:.1f}".format(*main()))
