"""ProMP: objectives by hand, the gradient with the divergence, and a policy that learns to adapt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from attrs import evolve
from torch import Tensor, nn

from learnforge import (
    Artifact,
    ArtifactError,
    Context,
    EpisodeShape,
    FastWeights,
    Plugins,
    StageError,
    Task,
    TaskInfo,
)
from learnforge import context as context_module
from learnforge.artifact import from_model, from_module
from learnforge.options.structure import build
from learnforge_kit import ImageEpisodes, Trajectories, adapt_policy
from learnforge_kit.engines.choice import ENGINES
from learnforge_kit.engines.learner import prepare_network
from learnforge_plugins.stages.meta.stage import MetaStage

NAMES = ["loop", "vmap"]
LINE = TaskInfo("line", ("move",), ("move",), (1, 1, 1), (0.0,), (1.0,), "environment")


@pytest.fixture
def make(plugins: Plugins) -> Any:
    """Make the method from options."""
    return lambda **options: build(plugins.load("meta-learner", "promp"), options, "test")


class Line(nn.Module):
    """Mean w · x, deviation exp(s)."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.s = nn.Parameter(torch.tensor(-0.2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        mean = self.w * x.flatten(1)
        return torch.cat([mean, self.s.expand_as(mean)], -1)


def rollouts(seed: int) -> Trajectories:
    """Two tasks of six samples; the policy that acted has mean 0.1 and deviation 0.9."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 6, 1, 1, 1, generator=generator).double()
    actions, advantages = torch.randn(2, 2, 6, 1, generator=generator).double()
    old = torch.tensor([0.1, 0.9]).log().double().expand(2, 6, 2).clone()
    old[..., 0] = 0.1
    labels = torch.cat([actions, advantages, torch.ones_like(actions), old], -1)
    return Trajectories(x, labels, torch.zeros(2))


def objective(theta: dict[str, Tensor], data: Trajectories, task: int, clip: float | None) -> Tensor:
    """Write the surrogate out with torch.distributions."""
    actions, advantages, _, old_mean, old_log_std = data.labels[task].unbind(-1)
    x = data.images[task].flatten()
    new = torch.distributions.Normal(theta["w"] * x, theta["s"].exp())
    old = torch.distributions.Normal(old_mean, old_log_std.exp())
    ratio = (new.log_prob(actions) - old.log_prob(actions)).exp()
    if clip is None:
        return -(ratio * advantages).mean()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages).mean()


def divergence(theta: dict[str, Tensor], data: Trajectories, task: int) -> Tensor:
    _, _, _, old_mean, old_log_std = data.labels[task].unbind(-1)
    new = torch.distributions.Normal(theta["w"] * data.images[task].flatten(), theta["s"].exp())
    old = torch.distributions.Normal(old_mean, old_log_std.exp())
    return torch.distributions.kl_divergence(old, new).mean()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_gradient_is_that_of_the_objective(make: Any, name: str, weight: float) -> None:
    """Clipped surrogate after one step, less the divergence before it, by plain autograd; some ratios are
    clipped.
    """
    network, support, query = Line(), rollouts(0), rollouts(1)
    method = make(inner_rate=0.4, clip=0.05, divergence=weight)
    theta = dict(network.named_parameters())
    total = torch.zeros((), dtype=torch.float64)
    for task in range(2):
        slopes = torch.autograd.grad(
            objective(theta, support, task, None), list(theta.values()), create_graph=True
        )
        moved = {n: t - 0.4 * g for (n, t), g in zip(theta.items(), slopes, strict=True)}
        outer = objective(moved, query, task, 0.05)
        assert not torch.isclose(outer, objective(moved, query, task, None))
        total = total + (outer + weight * divergence(theta, support, task)) / 2
    expected = torch.autograd.grad(total, list(theta.values()))
    meta = {n: t.detach() for n, t in theta.items()}
    episodes = ImageEpisodes(support, query, torch.zeros(2, 1))
    found = method.gradient(ENGINES[name](network, "support", method), meta, episodes).gradients
    for (n, _), wanted in zip(theta.items(), expected, strict=True):
        assert float(found[n]) == pytest.approx(float(wanted), rel=1e-9)


def test_adaptation_is_one_step(make: Any) -> None:
    """theta - alpha · gradient of the unclipped surrogate, from theta."""
    network, support = Line(), rollouts(0)
    method = make(inner_rate=0.4)
    meta = {n: t.detach() for n, t in network.named_parameters()}
    before, after = method.adapt(ENGINES["loop"](network, "support", method), meta, support)
    assert before.is_shared
    leaves = {n: t.clone().requires_grad_() for n, t in meta.items()}
    slopes = torch.autograd.grad(objective(leaves, support, 1, None), list(leaves.values()))
    for (n, t), g in zip(meta.items(), slopes, strict=True):
        assert float(after.of(1)[n]) == pytest.approx(float(t - 0.4 * g))


def road(plugins: Plugins, horizon: int, **changes: Any) -> tuple[Task, dict[str, Artifact], MetaStage]:
    """Return points, a small policy, and a stage that meta-trains it for a few seconds."""
    task = plugins.load("task", "point")(horizon=horizon).load()
    source = from_model(plugins.load("model", "gaussian-policy")(hidden=(16,), deviation=0.3), task.info)
    settings: dict[str, Any] = {
        "episodes": EpisodeShape(ways=1, shots=10, queries=10),
        "iterations": 30,
        "tasks": 20,
        "outer_steps": 3,
        "learning_rate": 1e-2,
        "engine": "vmap",
        "validation_episodes": 0,
        "test_episodes": 400,
    }
    method = plugins.load("meta-learner", "promp")(inner_rate=0.02)
    stage = MetaStage(name="meta", method=method, source="source", **(settings | changes))
    return task, {"source": source}, stage


@pytest.fixture(scope="module")
def policy() -> Artifact:
    """Meta-train a small policy."""
    plugins = Plugins()
    task, source, stage = road(plugins, 20)
    assert stage.check(task, source, Plugins()) == []
    context = Context("meta", 0, torch.device("cpu"), plugins, None)
    return stage.run(task, source, context)


def test_meta_training_cut_off_goes_on(
    plugins: Plugins, make_context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continued from its checkpoint between two batches of rollouts, it ends with the same bits."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    task, source, stage = road(plugins, 4, iterations=3)
    expected = stage.run(task, source, make_context(None))
    for cut in (1, 2, 3):

        def stop(event: str, metrics: dict[str, Any], cut: int = cut, **data: Any) -> None:
            if metrics["epoch"] == cut:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stage.run(task, source, make_context(tmp_path / str(cut), emit=stop))
        found = stage.run(task, source, make_context(tmp_path / str(cut)))
        assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in found.weights.items())
        assert found.metrics["history"] == expected.metrics["history"]
        assert found.metrics["test"] == expected.metrics["test"]


def test_outer_steps_use_the_same_rollouts(plugins: Plugins, make_context: Any) -> None:
    """Three outer steps on a batch begin with the returns of one, and go further."""
    histories, weights = [], []
    for steps in (1, 3):
        task, source, stage = road(plugins, 4, iterations=1, outer_steps=steps)
        found = stage.run(task, source, make_context(None))
        histories.append(found.metrics["history"]["meta"][0])
        weights.append(found.weights["log_std"])
    assert histories[0]["return"] == histories[1]["return"]
    assert histories[0]["return_before"] == histories[1]["return_before"]
    assert not torch.equal(*weights)


@pytest.mark.slow
def test_a_policy_learns_to_adapt_and_does(policy: Artifact, plugins: Plugins) -> None:
    """Meta-training raises the return after a step, which raises it on new goals; the artifact adapts to a
    goal of one's own and is an ordinary one then.
    """
    test = policy.metrics["test"]
    assert policy.metrics["measure"] == "return"
    task, source, untrained = road(plugins, 20, iterations=0)
    before = untrained.run(task, source, Context("meta", 0, torch.device("cpu"), plugins, None)).metrics
    assert test["after"] > before["test"]["after"] + 2
    assert test["after"] > test["before"] + 2
    goal = torch.tensor([[2.0, -1.8]])
    point = plugins.load("task", "point")(horizon=20)
    adapted, before = adapt_policy(policy, point.goals(goal, rollouts=20))
    network = adapted.network(plugins)

    def act(parameters: Any, observations: Tensor) -> Tensor:
        with torch.no_grad():
            return network(observations.flatten(0, 1)).unflatten(0, observations.shape[:2])

    after = float(point.goals(goal, rollouts=20, seed=1).begin(act, {}).support.returns)
    assert after > before + 3
    with pytest.raises(ArtifactError, match="only what a `meta` stage made can adapt"):
        adapt_policy(adapted, point.goals(goal))
    with pytest.raises(ArtifactError, match="one environment at a time, there are 2"):
        adapt_policy(policy, point.goals(torch.zeros(2, 2)))


def test_other_outputs_are_refused(make: Any, plugins: Plugins) -> None:
    """The prepared network is the one given: actions are the same in all tasks."""
    network = Line()
    assert prepare_network(make(), network, LINE) is network
    assert FastWeights({"w": torch.zeros(3)}).expanded(3)["w"].shape == (3,)


@pytest.mark.parametrize("name", NAMES)
def test_learned_rates_have_their_gradient(make: Any, name: str) -> None:
    """The slope along each tensor's rate, by plain autograd; adaptation takes these rates."""
    network, support, query = Line(), rollouts(0), rollouts(1)
    method = make(inner_rate=0.4, clip=0.05, divergence=0.0, learned_rates=True)
    theta = {n: t.detach() for n, t in network.named_parameters()}
    extra = method.extra_parameters(theta)
    assert {n: float(t) for n, t in extra.items()} == {"inner_rate:w": 0.4, "inner_rate:s": 0.4}
    rates = {n: torch.tensor(r, dtype=torch.float64, requires_grad=True) for n, r in (("w", 0.3), ("s", 0.5))}
    total = torch.zeros((), dtype=torch.float64)
    for task in range(2):
        leaves = {n: t.clone().requires_grad_() for n, t in theta.items()}
        slopes = torch.autograd.grad(objective(leaves, support, task, None), list(leaves.values()))
        moved = {n: t - rates[n] * g for (n, t), g in zip(theta.items(), slopes, strict=True)}
        total = total + objective(moved, query, task, 0.05) / 2
    expected = torch.autograd.grad(total, [rates["w"], rates["s"]])
    meta = theta | {f"inner_rate:{n}": t.detach() for n, t in rates.items()}
    engine = ENGINES[name](network, "support", method)
    found = method.gradient(engine, meta, ImageEpisodes(support, query, torch.zeros(2, 1))).gradients
    assert [float(found[f"inner_rate:{n}"]) for n in ("w", "s")] == pytest.approx(
        [float(g) for g in expected]
    )
    adapted = method.adapt(engine, meta, support)[-1].of(1)
    assert all(torch.allclose(adapted[n], t.detach()) for n, t in moved.items())


def test_what_does_not_suit_rollouts_is_refused(plugins: Plugins, make_context: Any) -> None:
    """Ways, outer steps of a method that does not correct for them, and normalisation by batches."""
    task, source, stage = road(plugins, 4, episodes=EpisodeShape(ways=5, shots=2, queries=2))
    (problem,) = stage.check(task, source, Plugins())
    assert str(problem) == "episodes.ways: must be 1 for environments, which have no classes, got 5"
    plain = evolve(road(plugins, 4)[2], method=plugins.load("meta-learner", "maml-pg")())
    (problem,) = plain.check(task, source, Plugins())
    assert "outer_steps: must be 1 for maml-pg" in str(problem)
    assert evolve(plain, outer_steps=1).check(task, source, Plugins()) == []
    layers = [nn.Flatten(), nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)]
    normalised = {"source": from_module(nn.Sequential(*layers), task.info)}
    with pytest.raises(StageError, match="a policy must not normalise by batches"):
        road(plugins, 4)[2].run(task, normalised, make_context(None))
