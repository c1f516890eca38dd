"""MAML with policy gradients: REINFORCE inside and outside, by plain autograd."""

from __future__ import annotations

import pytest
import torch
from tests.plugins.meta_learners.test_promp import Line, rollouts
from torch import Tensor

from learnforge import Plugins
from learnforge.options.structure import build
from learnforge_kit import ImageEpisodes, Trajectories
from learnforge_kit.engines.choice import ENGINES


def objective(theta: dict[str, Tensor], data: Trajectories, task: int) -> Tensor:
    actions, advantages = data.labels[task][:, 0], data.labels[task][:, 1]
    policy = torch.distributions.Normal(theta["w"] * data.images[task].flatten(), theta["s"].exp())
    return -(policy.log_prob(actions) * advantages).mean()


@pytest.mark.parametrize("name", ["loop", "vmap"])
def test_gradient_is_that_of_reinforce_after_a_step(plugins: Plugins, name: str) -> None:
    """The gradient of log-likelihood times advantage after one step of the same, through the step."""
    method = build(plugins.load("meta-learner", "maml-pg"), {"inner_rate": 0.4}, "test")
    network, support, query = Line(), rollouts(0), rollouts(1)
    theta = dict(network.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for task in range(2):
        slopes = torch.autograd.grad(objective(theta, support, task), list(theta.values()), create_graph=True)
        moved = {n: t - 0.4 * g for (n, t), g in zip(theta.items(), slopes, strict=True)}
        total = total + objective(moved, query, task) / 2
    expected = torch.autograd.grad(total, list(theta.values()))
    meta = {n: t.detach() for n, t in theta.items()}
    episodes = ImageEpisodes(support, query, torch.zeros(2, 1))
    found = method.gradient(ENGINES[name](network, "support", method), meta, episodes).gradients
    for n, wanted in zip(theta, expected, strict=True):
        assert float(found[n]) == pytest.approx(float(wanted), rel=1e-9)
