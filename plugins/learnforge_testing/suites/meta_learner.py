"""What every meta-learner must keep to: which data it sees and when, what it leaves alone, where its gradient
points, and that adapting and meta-training help.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from attrs import evolve, frozen
from torch import Tensor, nn

from learnforge.artifact import from_module
from learnforge.errors import ArtifactError, StageError
from learnforge.kinds.meta_learner import MetaGradient, MetaLearner
from learnforge.kinds.seen.engine import Engine, FastWeights, Parameters
from learnforge.kinds.seen.episodes import Episodes, Labelled
from learnforge.plugins.registry import Plugins
from learnforge.randomness import derive, seeded
from learnforge.spec import TaskInfo
from learnforge_kit.data.environments import Estimation, RolloutEpisodes, World
from learnforge_kit.data.episodes import ImageEpisodes
from learnforge_kit.drawing import hashed, uniform
from learnforge_kit.engines.adaptation import deploy_network
from learnforge_kit.engines.choice import ENGINES
from learnforge_kit.engines.engine import NetworkEngine
from learnforge_kit.engines.learner import prepare_network
from learnforge_kit.networks.modules import require_recorded
from learnforge_testing.method import MethodSuite
from learnforge_testing.suite import needs, require

WAYS, SHOTS, QUERIES, OLD_OUTPUTS, SIZE = 3, 2, 4, 5, 6


ITERATIONS, TASKS, JUDGED = 30, 4, 48
"""Outer steps of the short meta-training, episodes in each, and episodes to judge it by."""


@frozen(eq=False)
class _Learning:
    """A meta-learner with all that its calls take.

    Args:
        learner: The method.
        network: What it prepared.
        engine: Runs a copy of the network.
        parameters: The network's parameters by name.
        extra: The method's further meta-parameters.
        carried: What it carries from one outer step to the next.
    """

    learner: MetaLearner
    network: nn.Module
    engine: NetworkEngine
    parameters: dict[str, Tensor]
    extra: dict[str, Tensor]
    carried: dict[str, Tensor]

    @property
    def meta(self) -> dict[str, Tensor]:
        return {**self.parameters, **self.extra, **self.carried}

    def gradient(self, meta: Parameters, episodes: Episodes) -> MetaGradient:
        """Return the meta-gradient; the stage seeds the global generators around it too."""
        with seeded(7):
            return self.learner.gradient(self.engine, meta, episodes)

    def losses(self, meta: Parameters, episodes: ImageEpisodes) -> Tensor:
        """Return the query losses before and after adaptation: [2, task]."""
        trajectory = self.learner.adapt(self.engine, meta, episodes.support)
        ends = trajectory[0], trajectory[-1]
        return torch.stack(
            [self.engine.judge(at, episodes.support, episodes.queries).losses for at in ends]
        ).detach()


class _Spy(Episodes):
    """Episodes that note what was asked for, and with which parameters."""

    def __init__(self, episodes: ImageEpisodes):
        self.episodes = episodes
        self.asked: list[str] = []
        self.handed: list[dict[str, Tensor]] = []

    @property
    def support(self) -> Labelled:
        self.asked.append("support")
        return self.episodes.support

    def query(self, adapted: Any) -> Labelled:
        self.asked.append("query")
        self.handed.append({name: t.detach().clone() for name, t in adapted.items()})
        return self.episodes.queries


class _Line(World):
    """Points on a line that are to reach 1 or -1, which one is the task; they begin near 0.

    Args:
        indices: int64 [task].
        rollouts: Of each task.
    """

    horizon, actions = 8, 1

    def __init__(self, indices: Tensor, rollouts: int):
        self._indices, self._rollouts = indices, torch.arange(rollouts)
        self._goals = (hashed(0, indices) % 2 * 2 - 1).double()[:, None]

    def reset(self, seed: int) -> Tensor:
        self._place = 0.2 * uniform(seed, self._indices[:, None], self._rollouts).double() - 0.1
        return self._place[..., None]

    def step(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self._place = self._place + actions[..., 0].clamp(-0.5, 0.5)
        reward = -(self._place - self._goals).abs()
        return self._place[..., None], reward, torch.zeros_like(reward, dtype=torch.bool)


class MetaLearnerSuite(MethodSuite):
    """Checks of meta-learners, on a network of some 130 parameters and few-shot tasks that it learns in a
    second; for methods that learn policies, on points that are to find one of two goals. For tasks whose
    labels are no classes, override `episodes`.
    """

    kind: ClassVar[str] = "meta-learner"
    base: ClassVar[type] = MetaLearner

    @property
    def learns_policies(self) -> bool:
        """Whether the method is for environments."""
        return "environment" in self.method.forms

    @property
    def ways(self) -> int:
        """Outputs that the prepared network has, or actions."""
        return 1 if self.learns_policies else WAYS

    @property
    def episode(self) -> TaskInfo:
        """The task of an episode."""
        names = tuple(f"class {way}" for way in range(self.ways))
        form: str = "environment" if self.learns_policies else "classification"
        shape = (1, 1, 1) if self.learns_policies else (1, SIZE, SIZE)
        return TaskInfo("episode", names, names, shape, (0.0,), (1.0,), form)

    def network(self) -> nn.Module:
        """Return the network to prepare: float64, smooth, with a normalisation and `OLD_OUTPUTS` outputs; for
        policies without one, and with mean and logarithm of the deviation as outputs.
        """
        with seeded(0):
            if self.learns_policies:
                return nn.Sequential(nn.Flatten(), nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2)).double()
            norm = nn.BatchNorm2d(4)
            nn.init.uniform_(norm.weight, 0.8, 1.2)
            layers = [nn.Conv2d(1, 4, 3, stride=2), norm, nn.Tanh(), nn.Flatten(), nn.Linear(16, OLD_OUTPUTS)]
            return nn.Sequential(*layers).double()

    def episodes(self, seed: int, tasks: int) -> ImageEpisodes:
        """Draw few-shot tasks: three of eight patterns in noise, in an order that only the support tells; for
        policies, rollouts of the network that is to be prepared, also as queries.

        Args:
            seed: Which tasks.
            tasks: How many.
        """
        if self.learns_policies:
            network = self.network()
            engine = ENGINES["vmap"](network, "support")
            rollouts = self._rollouts(engine, dict(network.named_parameters()), seed, tasks)
            queries = rollouts.query(rollouts.initial)
            return ImageEpisodes(rollouts.support, queries, rollouts.indices[:, None])
        patterns = torch.randn(8, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.stack([torch.randperm(8, generator=generator)[:WAYS] for _ in range(tasks)])

        def labelled(count: int) -> Labelled:
            labels = torch.arange(WAYS).repeat_interleave(count).expand(tasks, -1).contiguous()
            clean = patterns[chosen.gather(1, labels)]
            return Labelled((clean + 0.5 * torch.randn(clean.shape, generator=generator)).double(), labels)

        return ImageEpisodes(labelled(SHOTS), labelled(QUERIES), chosen)

    def result(self) -> Any:
        learning, episodes = self._learning(), self.episodes(0, 3)
        found = learning.gradient(learning.meta, episodes)
        adapted = learning.learner.adapt(learning.engine, learning.meta, episodes.support)[-1]
        return [dict(found.gradients), found.losses, found.accuracies, dict(adapted.tensors)]

    def test_prepared_network_has_an_output_for_each_way(self) -> None:
        """The prepared network gives one score for each class of an episode, and so does a prediction."""
        learning, episodes = self._learning(), self.episodes(0, 2)
        with torch.no_grad():
            alone = learning.network.eval()(episodes.queries.images[0])
        weights = FastWeights(learning.parameters, is_shared=True)
        together = learning.engine.predict(weights, episodes.support, episodes.queries)
        outputs = 2 if self.learns_policies else WAYS
        want = (episodes.queries.images.shape[1], outputs)
        require(tuple(alone.shape) == want, f"`prepare` must give {outputs} outputs, got {list(alone.shape)}")
        require(
            tuple(together.shape) == (2, *want),
            f"predictions must be [task, image, way] = {[2, *want]}, got {list(together.shape)}",
        )

    def test_what_it_adds_to_the_network_is_written_down(self) -> None:
        """A network that is built again, with the changes that `prepare` made, has all layers."""
        network, learner = self.network(), self.make()
        before = from_module(network, self.episode)
        prepared = prepare_network(learner, copy.deepcopy(network), self.episode)
        try:
            require_recorded(before, prepared, Plugins(), f"{type(learner).__name__}.prepare")
        except StageError as error:
            raise AssertionError(str(error)) from error

    @needs(lambda suite: "environment" not in suite.method.forms, "the method is for environments")
    def test_network_in_use_predicts_as_the_method_does(self) -> None:
        """What is saved and exported for a support set gives the scores that `predict` gives; a method with a
        `predict` of its own has a `deploy` of its own.
        """
        learning, episodes = self._learning(), self.episodes(0, 1)
        adapted = learning.learner.adapt(learning.engine, learning.meta, episodes.support)[-1].of(0)
        own = dict(learning.meta) | adapted
        network, support = copy.deepcopy(learning.network), episodes.support
        try:
            deploy_network(learning.learner, learning.engine, network, own, support, self.episode)
        except ArtifactError as error:
            raise AssertionError(str(error)) from error

    def test_extra_parameters_have_names_of_their_own(self) -> None:
        """No extra meta-parameter is named as one of the network's."""
        learning = self._learning()
        own = [*learning.extra, *learning.carried]
        shared = sorted({name for name in own if name in learning.parameters or own.count(name) > 1})
        require(not shared, f"extra parameters must not be named as the network's, but {shared} are")

    def test_inputs_are_left_alone(self) -> None:
        """`gradient` and `adapt` change no meta-parameter, buffer, mode or episode, not by a bit."""
        learning, episodes = self._learning(), self.episodes(0, 2)
        given = {"the meta-parameters": learning.meta, "the episodes": _tensors(episodes)}
        given["the network"] = dict(learning.network.state_dict())
        given["the engine's network"] = dict(learning.engine._network.state_dict())
        before = {name: {n: t.clone() for n, t in tensors.items()} for name, tensors in given.items()}
        meta = learning.meta
        for call in ("gradient", "adapt"):
            if call == "gradient":
                learning.gradient(meta, episodes)
            else:
                learning.learner.adapt(learning.engine, meta, episodes.support)
            require(
                list(meta) == list(before["the meta-parameters"]), f"`{call}` must not add meta-parameters"
            )
            for name, tensors in given.items():
                changed = [n for n, t in tensors.items() if not torch.equal(t, before[name][n])]
                require(not changed, f"`{call}` must leave {name} alone, it changed {', '.join(changed)}")

    def test_adaptation_starts_at_the_meta_parameters(self) -> None:
        """After no step the parameters are the network's meta-parameters, bit for bit, for every task."""
        learning, episodes = self._learning(), self.episodes(0, 2)
        trajectory = learning.learner.adapt(learning.engine, learning.meta, episodes.support)
        for step, weights in enumerate(trajectory):
            names = sorted(set(weights.tensors) ^ set(learning.parameters))
            require(
                not names,
                f"entry {step} of `adapt` must hold exactly the network's parameters, not so: {names}",
            )
        moved = [
            name
            for task in range(2)
            for name, tensor in trajectory[0].of(task).items()
            if not torch.equal(tensor, learning.parameters[name])
        ]
        require(not moved, f"entry 0 of `adapt` must be the meta-parameters, {', '.join(moved)} differ")

    @needs(
        lambda suite: suite.method.adapts_head_alone, "the method declares no network that it leaves alone"
    )
    def test_adaptation_leaves_the_network_below_the_head(self) -> None:
        """A method that says so adapts the head alone: features are computed once for all episodes."""
        learning = self._learning()
        last = learning.learner.adapt(learning.engine, learning.meta, self.episodes(0, 2).support)[-1]
        below = [n for n in learning.parameters if n.rpartition(".")[0] != learning.engine.head]
        moved = [n for n in below for own in map(last.of, (0, 1)) if not own[n].equal(learning.parameters[n])]
        require(not moved, f"`adapts_head_alone` is claimed, but `adapt` changes {', '.join(moved)}")

    @needs(lambda suite: suite.method.takes_steps, "the method declares that it takes no steps")
    def test_adaptation_lowers_the_support_loss(self) -> None:
        """Averaged over tasks, the loss on the support set is lower after adaptation than before."""
        learning, episodes = self._learning(), self.episodes(0, 8)
        own = evolve(episodes, queries=episodes.support)
        before, after = learning.losses(learning.meta, own).mean(1).tolist()
        require(
            after < before,
            f"adaptation must lower the support loss, it went from {before:.4g} to {after:.4g}",
        )

    def test_meta_training_lowers_the_query_loss(self) -> None:
        """After a short meta-training, adapted parameters do better on queries of new tasks than those of the
        untrained network, and than unadapted ones; policies by their return.
        """
        learning = self._learning()
        untrained = self._judged(learning, learning.meta)[1]
        before, after = self._judged(learning, self._trained(learning))
        require(
            after < untrained,
            f"{ITERATIONS} outer steps must lower the query loss after adaptation, it went from "
            f"{untrained:.4g} to {after:.4g}; does the gradient point uphill?",
        )
        require(
            after < before or not self.method.takes_steps,
            f"adaptation must lower the query loss of meta-trained parameters, it went from {before:.4g} to "
            f"{after:.4g}",
        )

    def test_gradient_covers_the_meta_parameters(self) -> None:
        """There is a finite gradient of its shape and type for each meta-parameter and for nothing else."""
        learning = self._learning()
        found = learning.gradient(learning.meta, self.episodes(0, 3))
        moved = learning.parameters | learning.extra
        want = {name: (tuple(t.shape), t.dtype) for name, t in moved.items()}
        kept = {name: (tuple(t.shape), t.dtype) for name, t in learning.carried.items()}
        given = {name: (tuple(t.shape), t.dtype) for name, t in found.carried.items()}
        require(given == kept, f"what is carried must come back in its shapes, {kept}, got {given}")
        got = {name: (tuple(g.shape), g.dtype) for name, g in found.gradients.items()}
        wrong = sorted(name for name in {*want, *got} if want.get(name) != got.get(name))
        require(
            not wrong, f"gradients must be of the meta-parameters' names, shapes and types; wrong: {wrong}"
        )
        require(
            all(bool(g.isfinite().all()) for g in found.gradients.values()), "all gradients must be finite"
        )
        shapes = [list(found.losses.shape), list(found.accuracies.shape)]
        require(shapes == [[3], [3]], f"losses and accuracies must be [task] = [3], got {shapes}")
        attached = [name for name, g in found.gradients.items() if g.requires_grad]
        require(not attached, f"gradients must be detached from their graph, {', '.join(attached)} are not")

    def test_gradient_is_averaged_over_tasks(self) -> None:
        """A batch that holds every task twice has the same gradient."""
        learning, episodes = self._learning(), self.episodes(0, 2)
        twice = ImageEpisodes(
            _joined(episodes.support), _joined(episodes.queries), episodes.classes.repeat(2, 1)
        )
        once, doubled = (learning.gradient(learning.meta, e).gradients for e in (episodes, twice))
        off = _difference(doubled, once)
        require(
            off < 1e-7,
            f"with every task twice the gradient must stay, it differs by {off:.2g} of its largest",
        )

    def test_query_is_withheld_until_adaptation(self) -> None:
        """The query is asked for after the support, with adapted parameters in which no query has a part."""
        learning, episodes = self._learning(), self.episodes(0, 3)
        spies = [_Spy(episodes), _Spy(evolve(episodes, queries=_inverted(episodes.queries)))]
        for spy in spies:
            again = self._learning()
            again.gradient(again.meta, spy)
        first, second = spies
        require(
            first.asked[:1] == ["support"] and first.handed,
            f"`gradient` must ask for the support and then for the query, it asks for {first.asked}",
        )
        require(
            not self.method.takes_steps or _difference(first.handed[0], learning.parameters) > 0,
            "`gradient` must ask for the query with adapted parameters, it does so with the meta-parameters",
        )
        for one, other in zip(first.handed, second.handed, strict=True):
            off = _difference(one, other)
            require(
                off == 0, f"the query must have no part in adaptation, but parameters differ by {off:.2g}"
            )

    def test_losses_are_those_after_adaptation(self) -> None:
        """The losses and accuracies beside a gradient are the query's at the adapted parameters."""
        learning, spy = self._learning(), _Spy(self.episodes(0, 3))
        found = learning.gradient(learning.meta, spy)
        handed = spy.handed[-1]
        is_shared = all(t.shape == learning.parameters[name].shape for name, t in handed.items())
        weights, episodes = FastWeights(handed, is_shared), spy.episodes
        outcome = learning.engine.judge(weights, episodes.support, episodes.queries)
        for name in ("losses", "accuracies"):
            got, want = getattr(found, name), getattr(outcome, name)
            require(
                torch.allclose(got.double(), want.double(), rtol=1e-6, atol=1e-9, equal_nan=True),
                f"{name} must be the query's after adaptation, {want.tolist()}, got {got.tolist()}",
            )

    def test_tasks_do_not_mix(self) -> None:
        """Other data of one task change neither the losses nor the adapted parameters of another."""
        learning, episodes = self._learning(), self.episodes(0, 3)
        other = evolve(
            episodes, support=_inverted(episodes.support, 1), queries=_inverted(episodes.queries, 1)
        )
        before, after = (learning.gradient(learning.meta, e).losses[1:] for e in (episodes, other))
        require(
            torch.allclose(before, after, rtol=1e-9, atol=1e-12),
            f"losses of other tasks must stay, they went from {before.tolist()} to {after.tolist()}",
        )
        ends = [
            learning.learner.adapt(learning.engine, learning.meta, e.support)[-1] for e in (episodes, other)
        ]
        for task in (1, 2):
            off = _difference(ends[1].of(task), ends[0].of(task))
            require(off < 1e-9, f"parameters adapted to another task must stay, they differ by {off:.2g}")

    def test_engines_agree(self) -> None:
        """All engines that can run the method give the same gradient, losses and adapted parameters
        to rounding.
        """
        episodes, found = self.episodes(0, 3), {}
        for name in ENGINES:
            try:
                learning = self._learning(name)
            except StageError:  # a method with rules of its own is no chain
                continue
            outcome = learning.gradient(learning.meta, episodes)
            end = learning.learner.adapt(learning.engine, learning.meta, episodes.support)[-1]
            parts: dict[str, Parameters] = {"gradients": outcome.gradients, "losses": {"": outcome.losses}}
            found[name] = {**parts, "adapted parameters": end.tensors}
        expected = found.pop("loop")
        for name, parts in found.items():
            for part, tensors in parts.items():
                off = _difference(tensors, expected[part])
                require(
                    off < 1e-7, f"{part} must be those of `loop` under `{name}`, they differ by {off:.2g}"
                )

    @needs(
        lambda suite: suite.method.exact_gradient is not None,
        "the method does not claim that its gradient is exact",
    )
    def test_gradient_is_the_slope_of_the_query_loss(self) -> None:
        """Along random directions, the gradient is the finite difference of the adapted query loss."""
        learning, episodes = self._learning(**self.method.exact_gradient), self.episodes(0, 3)
        found = learning.gradient(learning.meta, episodes).gradients
        scale = float(torch.cat([g.flatten() for g in found.values()]).norm())
        generator, width = torch.Generator().manual_seed(3), 1e-5
        for _ in range(3):
            direction = {
                n: torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in learning.meta.items()
            }
            ends = [
                float(learning.losses(_moved(learning.meta, direction, step), episodes)[1].mean())
                for step in (width, -width)
            ]
            slope = (ends[0] - ends[1]) / (2 * width)
            claimed = sum(float((found[n] * direction[n]).sum()) for n in direction)
            require(
                abs(slope - claimed) <= 1e-6 * scale,
                f"the gradient must be the slope of the query loss, {slope:.9g} by finite differences, got "
                f"{claimed:.9g}",
            )

    def test_memory_stays_flat(self) -> None:
        """Between the 10th and the 50th outer step, no further tensor stays alive."""
        learning, episodes = self._learning(), self.episodes(0, 1)
        alive = []
        for step in range(50):
            learning.gradient(learning.meta, episodes)
            learning.learner.adapt(learning.engine, learning.meta, episodes.support)
            if step in (9, 49):
                alive.append(_count_tensors())
        require(
            alive[1] <= alive[0],
            f"steps must leave no tensor behind, after 10 steps {alive[0]} were alive, after 50 {alive[1]}",
        )

    def _learning(self, engine: str = "loop", **options: Any) -> _Learning:
        learner = self.make(**options)
        with seeded(1):
            network = prepare_network(learner, self.network(), self.episode)
        parameters = {name: p.detach().clone() for name, p in network.named_parameters()}
        with seeded(2):
            extra = {n: t.detach().clone() for n, t in learner.extra_parameters(parameters).items()}
            carried = {n: t.detach().clone() for n, t in learner.carried_state(parameters).items()}
        own = ENGINES[engine](network, "support", learner)
        return _Learning(learner, network, own, parameters, extra, carried)

    def _trained(self, learning: _Learning) -> dict[str, Tensor]:
        """Return meta-parameters after a short meta-training, as the stage does it."""
        moved = learning.parameters | learning.extra
        leaves = {name: t.clone().requires_grad_() for name, t in moved.items()}
        carried = dict(learning.carried)
        optimizer = torch.optim.Adam(leaves.values(), 1e-2)
        for iteration in range(ITERATIONS):
            meta = {name: t.detach() for name, t in leaves.items()} | carried
            seed = derive(0, "train", iteration)
            episodes: Episodes = (
                self._rollouts(learning.engine, meta, seed, TASKS)
                if self.learns_policies
                else self.episodes(seed, TASKS)
            )
            found = learning.gradient(meta, episodes)
            for name, leaf in leaves.items():
                leaf.grad = found.gradients.get(name)
            nn.utils.clip_grad_norm_(list(leaves.values()), 10.0)
            optimizer.step()
            carried |= found.carried
        return {name: t.detach() for name, t in leaves.items()} | carried

    def _judged(self, learning: _Learning, meta: Parameters) -> list[float]:
        """Return the query loss, or the negative return, before and after adaptation to new tasks."""
        seed = derive(0, "judge")
        if not self.learns_policies:
            found: list[float] = learning.losses(meta, self.episodes(seed, JUDGED)).mean(1).tolist()
            return found
        rollouts = self._rollouts(learning.engine, meta, seed, JUDGED)
        end = learning.learner.adapt(learning.engine, meta, rollouts.support)[-1]
        policies = rollouts.initial, end.expanded(JUDGED)
        return [-float(rollouts.rollout(policy, "query").returns.mean()) for policy in policies]

    def _rollouts(self, engine: Engine, meta: Parameters, seed: int, tasks: int) -> RolloutEpisodes:
        """Begin tasks of a policy."""
        indices = torch.arange(tasks) + seed % 1000
        drawn = RolloutEpisodes(partial(_Line, indices), (10, 10), seed, indices, Estimation())
        parameters = {name: meta[name] for name in engine.names}
        return drawn.begin(lambda at, images: engine.run(FastWeights(at), images), parameters)


def _tensors(episodes: ImageEpisodes) -> dict[str, Tensor]:
    support, query = episodes.support, episodes.queries
    return {
        "support images": support.images,
        "support labels": support.labels,
        "query images": query.images,
        "query labels": query.labels,
    }


def _joined(labelled: Labelled) -> Labelled:
    """Return every task twice."""
    return Labelled(torch.cat([labelled.images] * 2), torch.cat([labelled.labels] * 2))


def _inverted(labelled: Labelled, tasks: int | None = None) -> Labelled:
    """Return other data for the first tasks, or for all: the negative images in reversed order."""
    images = labelled.images.clone()
    images[:tasks] = -images[:tasks].flip(1)
    return Labelled(images, labelled.labels)


def _moved(meta: Parameters, direction: Parameters, step: float) -> dict[str, Tensor]:
    return {name: t + step * direction[name] for name, t in meta.items()}


def _difference(found: Parameters, expected: Parameters) -> float:
    """Return the largest difference of shared names, relative to the largest number; NaN never fits."""
    shared: Mapping[str, Tensor] = {name: t for name, t in expected.items() if name in found}
    scale = max(float(t.abs().max()) for t in shared.values())
    off = torch.stack([(found[name] - t).abs().max() for name, t in shared.items()]).max()
    return float(off.nan_to_num(nan=float("inf"))) / max(scale, 1e-12)


def _count_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(found), Tensor) for found in gc.get_objects())
