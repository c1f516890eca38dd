"""Meta-learning: the engines against plain autograd in float64, the stage, and adaptation of artifacts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from attrs import evolve, frozen, validators
from torch import Tensor, nn
from torch.func import functional_call

import learnforge as lf
from learnforge import (
    Artifact,
    ArtifactError,
    Context,
    DivergedError,
    Engine,
    Episodes,
    EpisodeShape,
    FastWeights,
    Labelled,
    MetaGradient,
    MetaLearner,
    Plugins,
    StageError,
    Task,
    TaskInfo,
)
from learnforge import context as context_module
from learnforge.artifact import from_model, from_module
from learnforge.spec import Provenance
from learnforge_kit.data.episodes import ImageEpisodes
from learnforge_kit.engines import choice as roads
from learnforge_kit.engines.adaptation import adapt_artifact
from learnforge_kit.engines.choice import ENGINES
from learnforge_kit.engines.loop import LoopEngine
from learnforge_kit.engines.normalisation import POLICIES
from learnforge_plugins.optimizers.torch import SGD
from learnforge_plugins.stages.meta.stage import MetaStage

MakeContext = Callable[..., Context]
Parameters = Mapping[str, Tensor]
TASKS, WAYS, SHOTS, QUERIES, RATE = 3, 3, 2, 3, 0.3


class CutError(Exception):
    """Stands for a kill."""


def make_network(norm: str, outputs: int = WAYS) -> nn.Module:
    """Make a small smooth network with a normalisation, in float64, its statistics not the initial ones."""
    torch.manual_seed(0)
    layers = {"batch": nn.BatchNorm2d(4), "group": nn.GroupNorm(2, 4), "none": nn.Identity()}
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), layers[norm], nn.Tanh(), nn.Flatten(), nn.Linear(36, outputs)
    ).double()
    network(torch.randn(32, 1, 8, 8).double() * 2 + 1)
    for parameter in network[1].parameters():
        nn.init.normal_(parameter, 1.0, 0.2)
    return network


def make_episodes() -> ImageEpisodes:
    """Make episodes of random images in float64."""
    generator = torch.Generator().manual_seed(1)

    def labelled(count: int) -> Labelled:
        images = torch.randn(TASKS, WAYS * count, 1, 8, 8, generator=generator).double()
        return Labelled(images, torch.arange(WAYS).repeat_interleave(count).expand(TASKS, -1))

    return ImageEpisodes(labelled(SHOTS), labelled(QUERIES), torch.arange(WAYS).expand(TASKS, -1))


def forward(
    network: nn.Module, theta: Parameters, images: Tensor, policy: str, reference: Tensor | None = None
) -> Tensor:
    """Run the network with torch's own layers, batch statistics taken from `reference`, or the images."""
    if not isinstance(network[1], nn.BatchNorm2d):  # type: ignore[index]
        result: Tensor = functional_call(network, dict(theta), (images,))
        return result
    hidden = F.conv2d(images, theta["0.weight"], theta["0.bias"], stride=2)
    if policy == "running":
        mean, variance = network[1].running_mean, network[1].running_var  # type: ignore[index]
    else:
        given = (
            hidden if reference is None else F.conv2d(reference, theta["0.weight"], theta["0.bias"], stride=2)
        )
        mean, variance = given.mean((0, 2, 3)), given.var((0, 2, 3), correction=0)
    column = (1, -1, 1, 1)
    hidden = (hidden - mean.view(column)) / (variance.view(column) + 1e-5).sqrt()
    hidden = torch.tanh(hidden * theta["1.weight"].view(column) + theta["1.bias"].view(column))
    return hidden.flatten(1) @ theta["4.weight"].T + theta["4.bias"]


def query_outputs(
    network: nn.Module, theta: Parameters, episodes: ImageEpisodes, task: int, policy: str
) -> Tensor:
    """Return the outputs for one task's query images."""
    support, query = episodes.support.images[task], episodes.queries.images[task]
    if policy == "per-query":
        references = [torch.cat([support, image[None]]) for image in query]
        pairs = zip(query, references, strict=True)
        return torch.cat([forward(network, theta, image[None], policy, own) for image, own in pairs])
    return forward(network, theta, query, policy, support if policy == "support" else None)


def query_loss(
    network: nn.Module, theta: Parameters, episodes: ImageEpisodes, task: int, policy: str
) -> Tensor:
    """Return the query loss of one task."""
    outputs = query_outputs(network, theta, episodes, task, policy)
    return F.cross_entropy(outputs, episodes.queries.labels[task])


def adapted(
    network: nn.Module,
    theta: Parameters,
    episodes: ImageEpisodes,
    task: int,
    policy: str,
    steps: int,
    first_order: bool = False,
) -> dict[str, Tensor]:
    """Take plain inner steps, the graph kept."""
    moved = dict(theta)
    for _ in range(steps):
        outputs = forward(network, moved, episodes.support.images[task], policy)
        loss = F.cross_entropy(outputs, episodes.support.labels[task])
        found = torch.autograd.grad(loss, list(moved.values()), create_graph=True, allow_unused=True)
        gradients = [
            torch.zeros_like(t) if g is None else g for t, g in zip(moved.values(), found, strict=True)
        ]
        if first_order:
            gradients = [g.detach() for g in gradients]
        moved = {n: t - RATE * g for (n, t), g in zip(moved.items(), gradients, strict=True)}
    return moved


def outer_loss(network: nn.Module, theta: Parameters, policy: str, steps: int, **more: Any) -> Tensor:
    """Return the mean query loss after adaptation."""
    episodes = make_episodes()
    losses = []
    for task in range(TASKS):
        moved = adapted(network, theta, episodes, task, policy, steps, **more)
        losses.append(query_loss(network, moved, episodes, task, policy))
    return torch.stack(losses).mean()


def leaves_of(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's parameters as leaves of their own."""
    return {name: p.detach().clone().requires_grad_() for name, p in network.named_parameters()}


def assert_close(found: Parameters, expected: Parameters) -> None:
    """Compare to 1e-9 of the largest number of each tensor."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        scale = max(float(tensor.abs().max()), 1e-6)
        assert float((found[name] - tensor).abs().max()) <= 1e-9 * scale, name


@pytest.fixture(scope="module")
def maml() -> Callable[..., Any]:
    """The class of the meta-learner `maml`."""
    loaded: Callable[..., Any] = Plugins().load("meta-learner", "maml")
    return loaded


# Every policy matters to batch normalisation alone
CASES = [("batch", policy) for policy in POLICIES]
CASES += [("group", "support"), ("none", "support")]
RUNS = [
    (name, norm, policy)
    for name in ENGINES
    for norm, policy in CASES
    if name != "chain" or (norm != "group" and policy in ("support", "transductive"))
]
"""Engines with what they can compute."""
BATCH_RUNS = [(name, policy) for name, norm, policy in RUNS if norm == "batch"]


@pytest.mark.parametrize(("name", "norm", "policy"), RUNS)
@pytest.mark.parametrize("steps", [1, 3])
def test_the_meta_gradient_is_that_of_plain_autograd(
    norm: str, policy: Any, steps: int, name: str, maml: Any
) -> None:
    """MAML's meta-gradient and losses equal those of a loop with create_graph, to 1e-9."""
    network = make_network(norm)
    theta = leaves_of(network)
    loss = outer_loss(network, theta, policy, steps)
    expected = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
    engine = ENGINES[name](network, policy)
    method = maml(inner_rate=RATE, inner_steps=steps)
    found = method.gradient(engine, {n: t.detach() for n, t in theta.items()}, make_episodes())
    assert_close(found.gradients, expected)
    assert float(found.losses.mean()) == pytest.approx(float(loss.detach()), rel=1e-9)
    assert found.losses.shape == found.accuracies.shape == (TASKS,)


@pytest.mark.parametrize(("name", "norm", "policy"), RUNS)
def test_the_meta_gradient_is_a_finite_difference(norm: str, policy: Any, name: str, maml: Any) -> None:
    """Along a random direction it equals the central difference of the loss after adaptation."""
    network = make_network(norm)
    theta = {n: p.detach() for n, p in network.named_parameters()}
    torch.manual_seed(2)
    direction = {n: torch.randn_like(t) for n, t in theta.items()}
    engine, method = ENGINES[name](network, policy), maml(inner_rate=RATE, inner_steps=2)

    def loss(step: float) -> float:
        moved = {n: t + step * direction[n] for n, t in theta.items()}
        return float(method.gradient(engine, moved, make_episodes()).losses.mean())

    found = method.gradient(engine, theta, make_episodes()).gradients
    slope = float(sum((found[n] * direction[n]).sum() for n in theta))
    assert slope == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-6)


@pytest.mark.parametrize("name", ENGINES)
def test_first_order_leaves_the_hessians_out(name: str, maml: Any) -> None:
    """`first_order` gives the gradient that a detached inner loop gives, and another than the full one."""
    network = make_network("batch")
    theta = leaves_of(network)
    loss = outer_loss(network, theta, "support", 2, first_order=True)
    expected = dict(zip(theta, torch.autograd.grad(loss, list(theta.values())), strict=True))
    engine, parameters = ENGINES[name](network, "support"), {n: t.detach() for n, t in theta.items()}
    options = {"inner_rate": RATE, "inner_steps": 2}
    found = maml(first_order=True, **options).gradient(engine, parameters, make_episodes()).gradients
    assert_close(found, expected)
    full = maml(**options).gradient(engine, parameters, make_episodes()).gradients
    assert not torch.allclose(full["4.weight"], found["4.weight"], rtol=1e-3)


@pytest.mark.parametrize(("name", "norm", "policy"), RUNS)
def test_step_judge_and_predict_are_what_autograd_says(norm: str, policy: Any, name: str) -> None:
    """Gradients, losses and outputs of every task, shared or its own parameters, equal a plain loop's."""
    network, episodes = make_network(norm), make_episodes()
    engine = ENGINES[name](network, policy)
    shared = FastWeights({n: p.detach() for n, p in network.named_parameters()}, is_shared=True)
    step = engine.step(shared, episodes.support)
    moved = shared.moved(step.gradients, RATE)
    outcome = engine.judge(moved, episodes.support, episodes.queries)
    outputs = engine.predict(moved, episodes.support, episodes.queries)
    for task in range(TASKS):
        theta = leaves_of(network)
        images = episodes.support.images[task]
        loss = F.cross_entropy(forward(network, theta, images, policy), episodes.support.labels[task])
        gradients = torch.autograd.grad(loss, list(theta.values()), retain_graph=True)
        assert_close(
            {n: g[task] for n, g in step.gradients.items()}, dict(zip(theta, gradients, strict=True))
        )
        assert float(step.losses[task]) == pytest.approx(float(loss.detach()), rel=1e-9)
        own = {n: t.detach().requires_grad_() for n, t in moved.of(task).items()}
        loss = query_loss(network, own, episodes, task, policy)
        gradients = torch.autograd.grad(loss, list(own.values()))
        assert_close(
            {n: g[task] for n, g in outcome.gradients.items()}, dict(zip(own, gradients, strict=True))
        )
        assert float(outcome.losses[task]) == pytest.approx(float(loss.detach()), rel=1e-9)
        expected = query_outputs(network, own, episodes, task, policy)
        torch.testing.assert_close(outputs[task], expected.detach(), rtol=1e-9, atol=1e-12)
        right = (expected.argmax(1) == episodes.queries.labels[task]).double().mean()
        assert float(outcome.accuracies[task]) == pytest.approx(float(right))
    assert not any(g.requires_grad for g in (*step.gradients.values(), *outcome.gradients.values(), outputs))


@pytest.mark.parametrize("name", ENGINES)
def test_pull_back_is_the_vector_jacobian_product_of_a_step(name: str) -> None:
    """v - H (r v), with a rate for every parameter, is what autograd gives for theta - r g(theta)."""
    network, episodes = make_network("batch"), make_episodes()
    engine = ENGINES[name](network, "transductive")
    shared = FastWeights({n: p.detach() for n, p in network.named_parameters()}, is_shared=True)
    torch.manual_seed(3)
    vectors = {n: torch.randn(TASKS, *t.shape).double() for n, t in shared.tensors.items()}
    rates = {n: torch.rand_like(t) for n, t in shared.tensors.items()}
    step = engine.step(shared, episodes.support)
    found = step.pull_back(vectors, rates)
    again = step.pull_back(vectors, rates)
    for task in range(TASKS):
        theta = leaves_of(network)
        outputs = forward(network, theta, episodes.support.images[task], "transductive")
        loss = F.cross_entropy(outputs, episodes.support.labels[task])
        gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        after = [t - rates[n] * g for (n, t), g in zip(theta.items(), gradients, strict=True)]
        own = [vectors[n][task] for n in theta]
        expected = torch.autograd.grad(after, list(theta.values()), own)
        assert_close({n: t[task] for n, t in found.items()}, dict(zip(theta, expected, strict=True)))
    assert all(torch.equal(found[n], again[n]) for n in found)


@pytest.mark.parametrize("name", ENGINES)
def test_a_step_of_some_parameters_is_that_part_of_the_whole(name: str) -> None:
    """Asked for the head alone, a step has its gradient alone, moves it alone, and pulls a gradient of all
    parameters back as autograd does.
    """
    network, episodes = make_network("batch"), make_episodes()
    theta = {n: p.detach() for n, p in network.named_parameters()}
    engine, shared = ENGINES[name](network, "support"), FastWeights(theta, is_shared=True)
    head = ["4.weight", "4.bias"]
    assert [f"{engine.head}.{part}" for part in ("weight", "bias")] == head
    whole, part = engine.step(shared, episodes.support), engine.step(shared, episodes.support, head)
    assert_close(part.gradients, {n: whole.gradients[n] for n in head})
    moved = shared.moved(part.gradients, RATE)
    assert all(torch.equal(moved.tensors[n][1], theta[n]) for n in theta if n not in head)
    assert all(t.shape[0] == TASKS for t in moved.tensors.values())
    torch.manual_seed(3)
    cotangent = {n: torch.randn_like(t) for n, t in moved.tensors.items()}
    leaves = leaves_of(network)
    loss = F.cross_entropy(
        forward(network, leaves, episodes.support.images[1], "support"), episodes.support.labels[1]
    )
    found = torch.autograd.grad(loss, [leaves[n] for n in head], create_graph=True)
    end = dict(leaves) | {n: leaves[n] - RATE * g for n, g in zip(head, found, strict=True)}
    total = torch.stack([(end[n] * cotangent[n][1]).sum() for n in end]).sum()
    expected = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    assert_close({n: t[1] for n, t in part.pull_back(cotangent, RATE).items()}, expected)


@pytest.mark.parametrize(
    ("name", "policy"), [(name, policy) for name, norm, policy in RUNS if norm == "batch"]
)
def test_a_solution_is_differentiated_through(name: str, policy: Any) -> None:
    """Where a formula of the support set adapts, the query gradient goes through it: it is the finite
    difference of the query loss; and `solve` gives what it made.
    """

    def scale_head(engine: Engine, theta: Parameters, support: Labelled) -> dict[str, Tensor]:
        strength = engine.embed(theta, support.images).square().mean() + theta["4.bias"].sum()
        return {**theta, "4.weight": theta["4.weight"] * strength}

    network, episodes = make_network("batch"), make_episodes()
    theta = {n: p.detach() for n, p in network.named_parameters()}
    engine = ENGINES[name](network, policy)

    def judge(step: float) -> Any:
        shared = FastWeights({n: t + step * direction[n] for n, t in theta.items()}, is_shared=True)
        return engine.judge(shared, episodes.support, episodes.queries, scale_head)

    torch.manual_seed(2)
    direction = {n: torch.randn_like(t) for n, t in theta.items()}
    found = judge(0.0)
    slopes = sum((g * direction[n]).flatten(1).sum(1) for n, g in found.gradients.items())
    expected = (judge(1e-5).losses - judge(-1e-5).losses) / 2e-5
    assert slopes.tolist() == pytest.approx(expected.tolist(), rel=1e-6)  # type: ignore[union-attr]
    solved = engine.solve(FastWeights(theta, is_shared=True), episodes.support, scale_head)
    again = engine.judge(solved, episodes.support, episodes.queries)
    assert again.losses.tolist() == pytest.approx(found.losses.tolist(), rel=1e-12)


def test_a_head_that_does_not_give_the_outputs_is_refused() -> None:
    """Where the last layer by definition is not the last one by use, the head is unknown."""

    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(64, WAYS), nn.Linear(64, 64)

        def forward(self, images: Tensor) -> Tensor:
            out: Tensor = self.head(self.body(images.flatten(1)))
            return out

    network = Swapped().double()
    theta = {n: p.detach() for n, p in network.named_parameters()}
    engine = LoopEngine(network, "support")
    with pytest.raises(StageError, match="last layer of Swapped, 'body', must give the network's outputs"):
        engine.embed(theta, make_episodes().support.images[0])


def test_networks_with_hard_sigmoids_have_second_derivatives(maml: Any) -> None:
    """torch has none for its own, MobileNetV3 is full of them; scores stay the same."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Hardsigmoid(), nn.Linear(8, 2)).double()
    images = 3 * torch.randn(5, 1, 8, 8, dtype=torch.float64)
    for engine in (ENGINES[name](network, "transductive") for name in ("loop", "vmap")):
        parameters = {name: p.detach() for name, p in network.named_parameters()}
        torch.testing.assert_close(engine.forward(parameters, images), network(images))
        support = Labelled(images[None], torch.tensor([[0, 1, 0, 1, 0]]))
        step = engine.step(FastWeights(parameters, is_shared=True), support)
        pulled = step.pull_back({n: torch.ones_like(p)[None] for n, p in parameters.items()}, 0.1)
        assert all(bool(p.isfinite().all()) for p in pulled.values())
    assert isinstance(network[2], nn.Hardsigmoid)


def test_an_integer_rate_is_a_rate(maml: Any) -> None:
    """`inner_rate=1` means 1.0."""
    network = make_network("none")
    engine, theta = LoopEngine(network, "support"), dict(network.named_parameters())
    one, other = (maml(inner_rate=rate).gradient(engine, theta, make_episodes()) for rate in (1, 1.0))
    assert torch.equal(one.losses, other.losses)


@pytest.mark.parametrize(
    ("name", "policy"), [(name, policy) for name, norm, policy in RUNS if norm == "batch"]
)
def test_nothing_that_an_engine_is_given_changes(name: str, policy: Any, maml: Any) -> None:
    """Meta-parameters, the network and its buffers, and its mode stay as they are."""
    network = make_network("batch").train()
    state = {n: t.clone() for n, t in network.state_dict().items()}
    parameters = {n: p.detach().clone() for n, p in network.named_parameters()}
    engine, episodes = ENGINES[name](network, policy), make_episodes()
    method = maml(inner_rate=RATE, inner_steps=2)
    method.gradient(engine, parameters, episodes)
    trajectory = method.adapt(engine, parameters, episodes.support)
    engine.predict(trajectory[-1], episodes.support, episodes.queries)
    engine.measure_statistics(trajectory[-1].of(0), episodes.support.images[0])
    assert all(torch.equal(t, state[n]) for n, t in network.state_dict().items())
    assert all(torch.equal(t, state[n]) for n, t in parameters.items())
    assert all(torch.equal(t, state[n]) for n, t in engine._network.state_dict().items())
    assert network.training


def test_adapt_gives_the_parameters_after_each_step(maml: Any) -> None:
    """The trajectory starts at the meta-parameters and follows plain gradient descent; 0 steps stay there."""
    network, episodes = make_network("batch"), make_episodes()
    engine = LoopEngine(network, "support")
    parameters = {n: p.detach() for n, p in network.named_parameters()}
    trajectory = maml(inner_rate=RATE, adaptation_steps=2).adapt(engine, parameters, episodes.support)
    assert len(trajectory) == 3
    assert trajectory[0].is_shared
    expected = adapted(network, leaves_of(network), episodes, 1, "support", 2)
    assert_close(trajectory[2].of(1), {n: t.detach() for n, t in expected.items()})
    (only,) = maml(adaptation_steps=0).adapt(engine, parameters, episodes.support)
    assert all(torch.equal(only.of(0)[n], parameters[n]) for n in parameters)


def test_the_query_is_judged_image_by_image_under_support() -> None:
    """Under `support` an output does not depend on the other query images; under `transductive` it does."""
    network, episodes = make_network("batch"), make_episodes()
    weights = FastWeights({n: p.detach() for n, p in network.named_parameters()}, is_shared=True)
    half = Labelled(episodes.queries.images[:, :4], episodes.queries.labels[:, :4])

    def difference(policy: Any) -> float:
        engine = LoopEngine(network, policy)
        whole = engine.predict(weights, episodes.support, episodes.queries)[:, :4]
        return float((engine.predict(weights, episodes.support, half) - whole).abs().max())

    assert difference("support") < 1e-12
    assert difference("running") < 1e-12
    assert difference("transductive") > 1e-3


@pytest.mark.parametrize("name", ENGINES)
def test_batch_normalisation_without_weights_is_understood(name: str) -> None:
    """Layers without weights are normalised as torch does in training."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(144, WAYS)
    ).double()
    episodes = make_episodes()
    weights = FastWeights({n: p.detach() for n, p in network.named_parameters()}, is_shared=True)
    found = ENGINES[name](network, "transductive").predict(weights, episodes.support, episodes.queries)
    expected = network.train()(episodes.queries.images[0]).detach()
    torch.testing.assert_close(found[0], expected)
    found = ENGINES[name](network, "support").predict(weights, episodes.support, episodes.support)
    expected = network.train()(episodes.support.images[0]).detach()
    torch.testing.assert_close(found[0], expected)


def test_batch_normalisation_without_running_statistics_is_refused() -> None:
    """A layer that could not keep the support set's statistics is named."""
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(StageError, match=r"the layer '1' must keep running statistics, .* does not"):
        LoopEngine(network, "support")


# The stage


@pytest.fixture
def few(task: Task) -> Task:
    """A task whose test classes are others than its training classes: six nameless rows of images."""
    names = tuple(f"row {i}" for i in range(6))
    info = TaskInfo("rows", names, tuple(f"rows:{i}" for i in range(6)), (1, 8, 8), (0.3,), (0.25,))
    train = task.train
    test = evolve(task.test, labels=task.test.labels + 3)  # type: ignore[type-var, call-arg]
    return Task(info, train, task.validation, test)


@pytest.fixture
def source(few: Task) -> dict[str, Artifact]:
    """A network for six classes with batch statistics."""
    return {"source": from_module(make_network("batch", 6).float(), few.info)}


@pytest.fixture
def make_stage(maml: Any) -> Callable[..., MetaStage]:
    """Make a small meta stage."""

    def make(**settings: Any) -> MetaStage:
        options = {
            "method": maml(),
            "episodes": EpisodeShape(3, 2, 3),
            "iterations": 6,
            "tasks": 2,
            "engine": "loop",
            "validation_episodes": 10,
            "test_episodes": 20,
        }
        with validators.disabled():  # fewer than 400 test episodes
            return MetaStage(name="stage", **{**options, **settings})

    return make


def test_test_episodes_are_at_least_400(maml: Any) -> None:
    """A score of fewer test episodes is refused."""
    with pytest.raises(ValueError, match="'test_episodes' must be >= 400: 399"):
        MetaStage(name="stage", method=maml(), test_episodes=399)


def test_meta_training_learns(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any
) -> None:
    """After meta-training, adaptation lifts the accuracy on unseen classes from chance."""
    settings = {"iterations": 60, "tasks": 4, "test_episodes": 100, "engine": "vmap", "learning_rate": 1e-2}
    artifact = make_stage(**settings).run(few, source, make_context(None))
    test = artifact.metrics["test"]
    assert test["before"] < 0.5 < 0.6 < test["after"]
    assert test["episodes"] == 100
    assert test["by_step"] == [
        [test["before"], test["before_interval"]],
        [test["after"], test["after_interval"]],
    ]
    assert len(artifact.metrics["history"]["meta"]) == 20
    assert artifact.metrics["seen_upstream"] == []
    assert artifact.task.classes == ("class 1", "class 2", "class 3")
    assert artifact.provenance.origins == {"rows:0", "rows:1", "rows:2"}


def test_meta_training_may_have_other_shots_and_queries(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any, plugins: Plugins
) -> None:
    """`train_ways`, `train_shots` and `train_queries` say what is trained on, `episodes` what is judged."""
    method = plugins.load("meta-learner", "protonet")()
    stage = make_stage(
        method=method, episodes=EpisodeShape(2, 1, 3), train_ways=3, train_shots=2, train_queries=1
    )
    assert stage._train_shape == EpisodeShape(3, 2, 1)
    assert stage.check(few, source, Plugins()) == []
    metrics = stage.run(few, source, make_context(None)).metrics
    assert (metrics["ways"], metrics["shots"], metrics["measure"]) == (2, 1, "accuracy")
    assert 0.3 < metrics["test"]["before"] < 0.7  # of two ways


@pytest.mark.parametrize("name", ["anil", "protonet", "r2d2"])
def test_a_head_that_cannot_adapt_alone_is_found_by_the_check(
    few: Task, make_stage: Any, plugins: Plugins, name: str
) -> None:
    """A network that ends in a convolution is named before anything is trained, a caller's own and one that a
    stand-in describes; one that ends in a linear layer is not.
    """
    convolution = nn.Sequential(nn.Conv2d(1, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stage = make_stage(method=plugins.load("meta-learner", name)())
    (problem,) = stage.check(few, {"source": from_module(convolution, few.info)}, Plugins())
    assert problem.path == "from"
    assert "must end in a linear layer with a bias" in problem.message
    squeezenet = plugins.load("model", "torchvision")(name="squeezenet1_1")
    photos = evolve(few, info=evolve(few.info, input_shape=(1, 64, 64)))
    (problem,) = stage.check(photos, {"source": from_model(squeezenet, photos.info)}, Plugins())
    assert "the last layer of SqueezeNet is 'classifier.1', Conv2d" in problem.message
    conv4 = plugins.load("model", "conv4")(width=4)
    assert stage.check(few, {"source": from_model(conv4, few.info)}, Plugins()) == []
    assert make_stage().check(few, {"source": from_module(convolution, few.info)}, Plugins()) == []


def test_other_ways_are_for_methods_that_compute_their_head(
    few: Task, source: dict[str, Artifact], make_stage: Any
) -> None:
    """A head with an output for each way cannot be trained on other ways; one way is no classification."""
    (problem,) = make_stage(train_ways=2).check(few, source, Plugins())
    assert str(problem) == (
        "train_ways: must be the episodes' 3 for maml, whose head has an output for each way, got 2"
    )
    (problem,) = make_stage(episodes=EpisodeShape(1, 2, 3)).check(few, source, Plugins())
    assert str(problem) == "episodes.ways: must be at least 2 to tell classes apart, got 1"


def test_the_method_is_told_how_far_meta_training_is(
    few: Task,
    source: dict[str, Artifact],
    make_stage: Any,
    make_context: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`engine.progress` rises from 0 in meta-training, and is 1 when it is over."""
    seen: list[float] = []
    judge, predict = LoopEngine.judge, LoopEngine.predict

    def noting(kept: Any) -> Any:
        def call(self: Engine, *arguments: Any) -> Any:
            seen.append(self.progress)
            return kept(self, *arguments)

        return call

    monkeypatch.setattr(LoopEngine, "judge", noting(judge))
    monkeypatch.setattr(LoopEngine, "predict", noting(predict))
    make_stage(iterations=4).run(few, source, make_context(None))
    assert seen[:4] == [0.0, 0.25, 0.5, 0.75]
    assert set(seen[4:]) == {1.0}


def test_outer_step_of_reptile_goes_the_whole_way(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any, plugins: Plugins
) -> None:
    """With plain SGD at rate 1 the weights after an outer step are the mean of those that tasks led to; a
    linear schedule halves the second of two steps.
    """
    method = plugins.load("meta-learner", "reptile")(inner_steps=2)
    outer = {
        "optimizer": SGD(momentum=0.0),
        "learning_rate": 1.0,
        "schedule": "linear",
        "clip_norm": 1e9,
    }
    rates: list[float] = []
    ends: list[Parameters] = []

    class Noting(type(method)):  # type: ignore[misc]
        def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
            ends.append({name: t.clone() for name, t in parameters.items()})
            found = super().gradient(engine, parameters, episodes)
            rates.append(float(found.gradients["4.bias"].norm()))
            return found

    stage = make_stage(method=Noting(inner_steps=2), iterations=2, fresh=False, **outer)
    final = stage.run(few, source, make_context(None)).network(plugins).state_dict()
    assert float((ends[1]["4.bias"] - ends[0]["4.bias"]).norm()) == pytest.approx(rates[0], rel=1e-3)
    assert float((final["4.bias"] - ends[1]["4.bias"]).norm()) == pytest.approx(rates[1] / 2, rel=1e-3)


def test_numbers_are_judged_by_their_loss(make_context: Any, make_stage: Any, plugins: Plugins) -> None:
    """On sine waves the score is the squared error, meta-training lowers it, and a search over options takes
    the lowest.
    """
    task = plugins.load("task", "sine")().load()
    model = from_model(plugins.load("model", "mlp")(hidden=(20, 20)), task.info)
    shape = {"episodes": EpisodeShape(1, 5, 10), "tasks": 10, "engine": "vmap", "test_episodes": 100}
    method = plugins.load("meta-learner", "maml")(inner_rate=0.01)
    stage = make_stage(method=method, iterations=150, learning_rate=1e-2, fresh=True, **shape)
    assert stage.check(task, {"source": model}, Plugins()) == []
    metrics = stage.run(task, {"source": model}, make_context(None)).metrics
    assert metrics["measure"] == "loss"
    assert "accuracy" not in metrics["history"]["meta"][-1]
    assert metrics["test"]["after"] < metrics["test"]["before"] < 6
    assert stage.measured(metrics)["score"] == -metrics["test"]["after"]
    assert stage.judged_by(task.info) == ("score",)


def test_numbers_have_the_tasks_outputs_whatever_the_ways(
    make_context: Any, make_stage: Any, plugins: Plugins
) -> None:
    """Ways multiply the points of a regression; outputs are the task's, and an adapted artifact has them."""
    task = plugins.load("task", "sine")().load()
    model = from_model(plugins.load("model", "mlp")(hidden=(8,)), task.info)
    stage = make_stage(episodes=EpisodeShape(5, 1, 3), fresh=True, normalisation="transductive")
    artifact = stage.run(task, {"source": model}, make_context(None))
    assert artifact.task.outputs == 1
    adapted = adapt_artifact(artifact, torch.zeros(4, 1, 1, 1), torch.ones(4, 1), plugins)
    assert adapted.network(plugins)(torch.zeros(2, 1, 1, 1)).shape == (2, 1)
    with pytest.raises(ArtifactError, match=r"targets must be float \[4, 1\], got torch.int64 \[4\]"):
        adapt_artifact(artifact, torch.zeros(4, 1, 1, 1), torch.ones(4, dtype=torch.int64), plugins)


def test_methods_for_classes_refuse_numbers(plugins: Plugins) -> None:
    """A method that computes a head of classes names the form that it learns."""
    task = plugins.load("task", "sine")().load()
    model = plugins.load("model", "mlp")()
    words = "use: protonet takes tasks of the form classification, sine waves is regression"
    with pytest.raises(lf.RecipeError, match=words):
        lf.meta_train(model, "protonet", task, ways=1, plugins=plugins, fresh=True)


def test_targets_of_another_shape_are_refused() -> None:
    """A squared error of shapes that only broadcast is no error of the network."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2)).double()
    images = torch.zeros(1, 3, 1, 8, 8, dtype=torch.float64)
    support = Labelled(images, torch.zeros(1, 3, 1, dtype=torch.float64))
    theta = FastWeights({n: p.detach() for n, p in network.named_parameters()}, is_shared=True)
    with pytest.raises(StageError, match=r"the targets' shape \[3, 1\], the network gives \[3, 2\]"):
        LoopEngine(network, "support").step(theta, support)


def test_no_adaptation_is_the_identity(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any, maml: Any
) -> None:
    """With zero steps of adaptation, before and after are one number."""
    stage = make_stage(method=maml(adaptation_steps=0), iterations=0)
    test = stage.run(few, source, make_context(None)).metrics["test"]
    assert test["by_step"] == [[test["before"], test["before_interval"]]]
    assert test["before"] == test["after"]


def test_all_engines_train_the_same(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any
) -> None:
    """All end with the same weights, up to rounding, and the artifact names its own."""
    ends = {}
    for name in ENGINES:
        stage = make_stage(engine=name, optimizer=SGD(), iterations=3)
        artifact = stage.run(few, source, make_context(None))
        assert artifact.metrics["engine"] == artifact.adapter_options["engine"] == name
        ends[name] = artifact.weights
    for weights in ends.values():
        assert all(torch.allclose(tensor, weights[name], atol=1e-4) for name, tensor in ends["loop"].items())


def test_the_fastest_engine_is_taken_and_kept(
    few: Task,
    source: dict[str, Artifact],
    make_stage: Any,
    make_context: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With `auto` all engines are tried and the fastest trains; a resumed stage goes on with it, though
    another would be faster by now.
    """
    speeds = {"loop": 3.0, "vmap": 1.0, "chain": 2.0}
    tried: list[str] = []

    def timed(work: Callable[[Engine], Any], engine: Engine) -> float:
        tried.append(next(name for name, kind in ENGINES.items() if type(engine) is kind))
        return speeds[tried[-1]]

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["epoch"] == 2:
            raise CutError

    monkeypatch.setattr(roads, "_timed", timed)
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    stage = make_stage(engine="auto", iterations=2)
    with pytest.raises(CutError):
        stage.run(few, source, make_context(tmp_path, emit=stop))
    assert set(tried) == set(ENGINES)
    speeds["loop"] = 0.1
    assert stage.run(few, source, make_context(tmp_path)).metrics["engine"] == "vmap"


def test_where_nothing_is_trained_no_engine_is_tried(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any, monkeypatch: Any
) -> None:
    """Trials would take longer than judging the network as it is."""
    monkeypatch.setattr("learnforge_plugins.stages.meta.stage.time_engines", None)
    stage = make_stage(engine="auto", iterations=0)
    assert stage.run(few, source, make_context(None)).metrics["engine"] == "loop"


def test_engines_that_cannot_are_left_out(maml: Any) -> None:
    """A network that is no chain is timed with the others; what fails with the loop is raised."""
    network, episodes = make_network("group"), make_episodes()
    theta = {name: p.detach() for name, p in network.named_parameters()}
    method = maml()
    found = roads.time_engines(network, "support", method, lambda e: method.gradient(e, theta, episodes))
    assert set(found) == {"loop", "vmap"}
    with pytest.raises(RuntimeError, match="size"):
        roads.time_engines(network, "support", method, lambda e: method.gradient(e, theta, wide()))


def wide() -> ImageEpisodes:
    """Episodes of two channels, which the network cannot take."""
    episodes = make_episodes()
    parts = (Labelled(e.images.repeat(1, 1, 2, 1, 1), e.labels) for e in (episodes.support, episodes.queries))
    return ImageEpisodes(*parts, episodes.classes)


def test_meta_training_cut_off_in_any_block_goes_on(
    few: Task,
    source: dict[str, Artifact],
    make_stage: Any,
    make_context: Any,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Continued from its checkpoint, it ends with the same bits, history included."""
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    stage = make_stage(validation_episodes=0, iterations=4)
    expected = stage.run(few, source, make_context(None))
    for cut in range(1, 5):

        def stop(event: str, metrics: dict[str, Any], cut: int = cut, **data: Any) -> None:
            if metrics["epoch"] == cut:
                raise CutError

        with pytest.raises(CutError):
            stage.run(few, source, make_context(tmp_path / str(cut), emit=stop))
        found = stage.run(few, source, make_context(tmp_path / str(cut)))
        assert all(torch.equal(tensor, expected.weights[name]) for name, tensor in found.weights.items())
        assert found.metrics["history"] == expected.metrics["history"]
        assert found.metrics["test"] == expected.metrics["test"]


def test_seen_test_classes_are_refused_or_marked(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any
) -> None:
    """Test classes of an ancestor's training are refused; told to go on, the score names them."""
    learnt = ({"task": "old", "origins": ["rows:4", "rows:0"], "samples": 1, "content": ""},)
    seen = {"source": evolve(source["source"], provenance=Provenance(trained_on=learnt))}
    words = "test classes must be unseen, but rows:4 were trained on upstream"
    assert [p.path for p in make_stage().check(few, seen, Plugins())] == ["task"]
    assert words in make_stage().check(few, seen, Plugins())[0].message
    with pytest.raises(StageError, match=words):
        make_stage().run(few, seen, make_context(None))
    told = make_stage(allow_seen=True, iterations=1)
    assert told.check(few, seen, Plugins()) == []
    assert told.run(few, seen, make_context(None)).metrics["seen_upstream"] == ["rows:4"]
    assert make_stage().check(few, source, Plugins()) == []


def test_test_classes_that_are_trained_on_here_are_refused_or_marked(
    task: Task, make_stage: Any, make_context: Any
) -> None:
    """Classes in both the training and the test split are refused as well, and marked when allowed."""
    source = {"source": from_module(make_network("batch").float(), task.info)}
    problems = make_stage().check(task, source, Plugins())
    assert [p.path for p in problems] == ["task"]
    assert "but stripes:0, stripes:1, stripes:2 are in both" in problems[0].message
    with pytest.raises(StageError, match="the test classes must be unseen"):
        make_stage().run(task, source, make_context(None))
    found = make_stage(allow_seen=True, iterations=1).run(task, source, make_context(None))
    assert found.metrics["seen_upstream"] == ["stripes:0", "stripes:1", "stripes:2"]


def test_check_wants_equal_shapes(few: Task, source: dict[str, Artifact], make_stage: Any) -> None:
    """A source for other images is refused with both shapes."""
    wide = {"source": evolve(source["source"], task=evolve(few.info, input_shape=(3, 8, 8)))}
    assert [str(p) for p in make_stage().check(few, wide, Plugins())] == [
        "from: must take images of shape [1, 8, 8] as the task has, it takes [3, 8, 8]"
    ]


def test_check_finds_every_fault_at_once(few: Task, source: dict[str, Artifact], make_stage: Any) -> None:
    """Wrong images do not hide wrong episodes."""
    wide = {"source": evolve(source["source"], task=evolve(few.info, input_shape=(3, 8, 8)))}
    problems = make_stage(episodes=EpisodeShape(1, 2, 3)).check(few, wide, Plugins())
    assert [problem.path for problem in problems] == ["from", "episodes.ways"]


@frozen
class Rated(MetaLearner):
    """One step at a learned rate; `name` is that of the rate, `is_broken` makes the losses NaN."""

    name: str = "rate"
    is_broken: bool = False

    def extra_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        return {self.name: torch.tensor(0.1)}

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        theta = FastWeights({n: t for n, t in parameters.items() if n != "rate"}, is_shared=True)
        outcome = engine.judge(theta, episodes.support, episodes.query(theta.tensors))
        gradients = {n: t.mean(0) for n, t in outcome.gradients.items()} | {"rate": torch.tensor(1.0)}
        losses = outcome.losses * float("nan") if self.is_broken else outcome.losses
        return MetaGradient(gradients, losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        theta = FastWeights({n: t for n, t in parameters.items() if n != "rate"}, is_shared=True)
        gradients = engine.step(theta, support).gradients
        return [theta, theta.moved(gradients, dict.fromkeys(theta.tensors, parameters["rate"]))]


def test_extra_parameters_are_trained_and_kept(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any
) -> None:
    """A learned rate moves against its gradient and is kept in the artifact's adapter, not its weights."""
    settings = {
        "method": Rated(),
        "optimizer": SGD(),
        "learning_rate": 0.01,
        "iterations": 1,
        "clip_norm": 1e9,
    }
    artifact = make_stage(**settings).run(few, source, make_context(None))
    # Nesterov's first step is 1.9 times the gradient
    assert float(artifact.adapter["rate"]) == pytest.approx(0.1 - 0.01 * 1.9)
    assert "rate" not in artifact.weights


def test_extra_parameters_need_names_of_their_own(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any
) -> None:
    """A name that the network has is refused."""
    with pytest.raises(
        StageError, match=r"extra parameters must not be named as the network's, \['0.weight'\]"
    ):
        make_stage(method=Rated("0.weight")).run(few, source, make_context(None))


def test_a_loss_that_is_not_finite_names_the_iteration(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any
) -> None:
    """Meta-training ends at the first iteration whose loss is not finite."""
    with pytest.raises(DivergedError, match="it was not in epoch 1, step 1 of 1"):
        make_stage(method=Rated(is_broken=True)).run(few, source, make_context(None))


# Adapting an artifact


@pytest.fixture
def learnt(few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any) -> Artifact:
    """A meta-learnt artifact, under the policy `support`."""
    artifact: Artifact = make_stage(iterations=3).run(few, source, make_context(None))
    return artifact


def support_of(few: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised support images, their labels, and query images of the test classes."""
    images = (few.test.images.float() / 255 - 0.3) / 0.25  # type: ignore[attr-defined]
    return images[:6], few.test.labels[:6] - 3, images[6:20]


@pytest.mark.parametrize("policy", ["support", "transductive"])
def test_an_adapted_network_predicts_as_the_engine_does(
    policy: str, few: Task, learnt: Artifact, maml: Any, plugins: Plugins
) -> None:
    """The ordinary network, in eval mode, gives the engine's outputs under the policy `support`."""
    learnt = evolve(learnt, adapter_options={**learnt.adapter_options, "normalisation": policy})
    images, labels, queries = support_of(few)
    quick = adapt_artifact(learnt, images, labels, plugins)
    network = learnt.network(plugins)
    engine = LoopEngine(network, "support")
    support = Labelled(images[None], labels[None])
    weights = maml().adapt(engine, {n: p.detach() for n, p in network.named_parameters()}, support)[-1]
    expected = engine.predict(weights, support, Labelled(queries[None], torch.zeros(1, len(queries))))
    alone = quick.network(plugins).eval()
    torch.testing.assert_close(alone(queries), expected[0], rtol=1e-4, atol=1e-5)
    assert quick.adapter_options == {}
    torch.testing.assert_close(alone(queries[:1]), expected[0, :1], rtol=1e-4, atol=1e-5)


def test_an_adapted_network_keeps_running_statistics_under_that_policy(
    few: Task, learnt: Artifact, plugins: Plugins
) -> None:
    """Under `running` only weights change."""
    learnt = evolve(learnt, adapter_options={**learnt.adapter_options, "normalisation": "running"})
    images, labels, _ = support_of(few)
    quick = adapt_artifact(learnt, images, labels, plugins)
    assert quick.weights is not None
    assert learnt.weights is not None
    assert torch.equal(quick.weights["1.running_mean"], learnt.weights["1.running_mean"])
    assert not torch.equal(quick.weights["4.weight"], learnt.weights["4.weight"])


def test_adaptation_asks_for_what_it_needs(few: Task, learnt: Artifact, plugins: Plugins) -> None:
    """Wrong labels, wrong shapes and artifacts that cannot adapt are refused with what came."""
    images, labels, _ = support_of(few)
    with pytest.raises(ArtifactError, match=r"labels must use each of 0 to 2 \(the artifact learns 3 ways\)"):
        adapt_artifact(learnt, images, labels.clamp_max(1), plugins)
    with pytest.raises(ArtifactError, match=r"images must be \[6, 1, 8, 8\], got \[6, 1, 7, 8\]"):
        adapt_artifact(learnt, images[:, :, 1:], labels, plugins)
    with pytest.raises(ArtifactError, match=r"images must be \[5, 1, 8, 8\], got \[6, 1, 8, 8\]"):
        adapt_artifact(learnt, images, labels[:5], plugins)
    with pytest.raises(ArtifactError, match="only what a `meta` stage made can adapt"):
        adapt_artifact(evolve(learnt, adapter_options={}), images, labels, plugins)
    other = evolve(learnt, adapter_options={**learnt.adapter_options, "meta_learner": {"use": "nobody"}})
    with pytest.raises(ArtifactError, match="the meta-learner 'nobody' of this artifact is not installed"):
        adapt_artifact(other, images, labels, plugins)


def test_further_shots_are_reported(
    few: Task, source: dict[str, Artifact], make_stage: Any, make_context: Any
) -> None:
    """What is reported for one shot beside two is what a stage of one shot reports after the same training;
    more shots than there are images are refused.
    """
    both = make_stage(validation_episodes=0, test_shots=(1, 2, 4), train_shots=2)
    assert both.check(few, source, Plugins()) == []
    found = both.run(few, source, make_context(None)).metrics
    one = make_stage(validation_episodes=0, episodes=EpisodeShape(3, 1, 3), train_shots=2)
    alone = one.run(few, source, make_context(None)).metrics["test"]
    assert [row[0] for row in found["by_shots"]] == [1, 2, 4]
    assert found["by_shots"][0][1:] == [alone["after"], alone["after_interval"]]
    assert found["by_shots"][1][1:] == [found["test"]["after"], found["test"]["after_interval"]]
    (problem,) = make_stage(validation_episodes=0, test_shots=(100,)).check(few, source, Plugins())
    assert "needs shots + queries = 103 images" in problem.message


def test_what_a_method_carries_goes_on_also_after_a_cut(
    few: Task,
    source: dict[str, Artifact],
    plugins: Plugins,
    make_stage: Any,
    make_context: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Reptile's second moments and their count pass through all outer steps, the checkpoint, and into the
    adapter.
    """
    monkeypatch.setattr(context_module, "CHECKPOINT_SECONDS", 0)
    method = plugins.load("meta-learner", "reptile")(inner_steps=3, adaptation_steps=2)
    stage = make_stage(method=method, validation_episodes=0, iterations=4)
    whole = stage.run(few, source, make_context(None))
    assert float(whole.adapter["adam_steps"]) == 4 * 3
    assert all(float(t.max()) > 0 for n, t in whole.adapter.items() if n.endswith(".weight"))

    def stop(event: str, metrics: dict[str, Any], **data: Any) -> None:
        if metrics["epoch"] == 2:
            raise CutError

    with pytest.raises(CutError):
        stage.run(few, source, make_context(tmp_path, emit=stop))
    found = stage.run(few, source, make_context(tmp_path))
    assert all(torch.equal(tensor, found.adapter[name]) for name, tensor in whole.adapter.items())
    assert all(torch.equal(tensor, found.weights[name]) for name, tensor in whole.weights.items())


def test_a_stage_goes_on_with_what_its_method_learnt(
    few: Task, source: dict[str, Artifact], plugins: Plugins, make_stage: Any, make_context: Any
) -> None:
    """From a learner of the same method: its moments or rates, of which an evaluation alone changes none; not
    from one of another method, of other ways, or where all is to be fresh.
    """
    reptile = plugins.load("meta-learner", "reptile")(inner_steps=3, adaptation_steps=2)
    sgd = plugins.load("meta-learner", "meta-sgd")()

    def run(start: Artifact, method: MetaLearner = reptile, iterations: int = 0, **changes: Any) -> Artifact:
        stage = make_stage(method=method, validation_episodes=0, iterations=iterations, **changes)
        made: Artifact = stage.run(few, {"source": start}, make_context(None))
        return made

    def is_equal(one: Artifact, other: Artifact) -> bool:
        assert one.adapter.keys() == other.adapter.keys()
        return all(torch.equal(tensor, other.adapter[name]) for name, tensor in one.adapter.items())

    learnt = run(source["source"], iterations=2)
    judged = run(learnt)
    assert is_equal(judged, learnt)
    assert judged.metrics["test"]["by_step"] == learnt.metrics["test"]["by_step"]
    assert float(run(learnt, iterations=1).adapter["adam_steps"]) == 3 * 3
    assert float(run(learnt, fresh=True).adapter["adam_steps"]) == 0
    assert float(run(learnt, episodes=EpisodeShape(2, 1, 3)).adapter["adam_steps"]) == 0
    rates = run(learnt, sgd, iterations=2)
    assert is_equal(run(rates, sgd), rates)
    other = run(learnt, sgd)
    assert not is_equal(other, rates)
    assert not torch.equal(other.weights["4.weight"], learnt.weights["4.weight"])  # a fresh head
    maml = plugins.load("meta-learner", "maml")
    stepped = run(learnt, maml(learned_rates=True, inner_steps=2), iterations=1)
    with pytest.raises(StageError, match=r"must fit the method as it is set.*'inner_rate.*`fresh = true`"):
        run(stepped, maml(learned_rates=True, inner_steps=3))
