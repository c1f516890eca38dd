"""The hole that a meta-learner fills."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from attrs import field, frozen
from torch import Tensor, nn

from learnforge.episodes import Episodes, Labelled
from learnforge.heads import replace_head
from learnforge.stages.meta.engine import Engine, FastWeights, Parameters, Rules


@frozen(eq=False)
class MetaGradient:
    """What a meta-learner makes of a batch of episodes.

    Args:
        gradients: {name: […]} for every meta-parameter; the outer optimizer follows them downhill.
        losses: Query loss of each task after adaptation, [task].
        accuracies: Query accuracy of each task after adaptation, [task].
        carried: New values of what the method carries along; see `MetaLearner.carried_state`.
    """

    gradients: Mapping[str, Tensor]
    losses: Tensor
    accuracies: Tensor
    carried: Mapping[str, Tensor] = field(factory=dict)


class MetaLearner(Rules, ABC):
    """A method of the kind `meta-learner`: a frozen attrs class, functional and batched over tasks.

    Meta-parameters are the network's parameters, by name, and those of `extra_parameters`. The core samples
    episodes, calls `gradient`, runs the outer optimizer, checkpoints and evaluates. Losses and predictions of
    a task (`support_loss`, `query_loss`, `predict`) are cross-entropy and the adapted network's outputs,
    unless a method says otherwise.
    """

    exact_gradient: ClassVar[Mapping[str, Any] | None] = None
    """Options under which `gradient` is the exact gradient of the mean query loss after adaptation; None
    where the method claims none."""

    takes_steps: ClassVar[bool] = True
    """Whether `adapt` moves the parameters; False for a method whose `predict` compares images instead."""

    computes_head: ClassVar[bool] = False
    """Whether `adapt` makes a head of as many outputs as the episode has ways, so that meta-training may have
    other ways than adaptation."""

    adapts_head_alone: ClassVar[bool] = False
    """Whether it calls `Engine.embed`, so that the network must end in a linear layer with a bias."""

    shaped_as_weights: ClassVar[tuple[str, ...]] = ()
    """Prefixes of extra or carried tensors that have the shape of the parameter that they are named after,
    `prefix + name`; those of the head are resized with it for other numbers of classes."""

    reuses_rollouts: ClassVar[bool] = False
    """Whether several outer steps may be taken on the same rollouts, since the method corrects for it."""

    forms: ClassVar[frozenset[str]] = frozenset({"classification", "regression"})
    """Forms of tasks that it learns."""

    @abstractmethod
    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        """Return the meta-gradient of a batch of episodes, averaged over tasks.

        Args:
            engine: Does the batched passes.
            parameters: Meta-parameters, {name: […]}, and what the method carries, shared by all tasks; not to
                be changed.
            episodes: Hands out support, then query.
        """

    @abstractmethod
    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        """Return the network's parameters after 0, 1, 2, … steps of adaptation; the last is what the method
        stands for.

        Args:
            engine: Does the batched passes.
            parameters: Meta-parameters; not to be changed.
            support: Labelled images of every task.
        """

    def prepare(self, network: nn.Module, outputs: int, ways: int) -> nn.Module:
        """Return the network that is meta-learnt: by default the one given, with a fresh head of `ways`
        outputs.

        Args:
            network: The network with its weights.
            outputs: Outputs that it has.
            ways: Classes in an episode.
        """
        replace_head(network, outputs, ways)
        return network

    def extra_parameters(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return initial meta-parameters beside the network's, such as learned rates; none by default.

        Their names must differ from the network's. They are kept in the artifact's adapter.
        """
        return {}

    def carried_state(self, parameters: Parameters) -> dict[str, Tensor]:
        """Return tensors at the start that no gradient moves and that go from one outer step to the next,
        such as an inner optimizer's state; none by default.

        `gradient` and `adapt` find them among their parameters, and `gradient` returns their new values.
        Names must differ from all others. They are kept in the artifact's adapter.
        """
        return {}


class HeadLearner(MetaLearner):
    """A meta-learner whose adaptation computes a linear head from the features of the support set.

    There are no inner steps: `adapt` gives the network as it is and the network with the head, and the
    meta-gradient goes through `head` to the features and to extra parameters. Nothing is carried along.
    """

    computes_head: ClassVar[bool] = True
    adapts_head_alone: ClassVar[bool] = True
    forms: ClassVar[frozenset[str]] = frozenset({"classification"})

    @abstractmethod
    def head(self, features: Tensor, members: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
        """Return one task's head: weights [way, feature] and biases [way]. It is differentiated and mapped
        over tasks, so it must not depend on values in Python.

        Args:
            features: What goes into the head for each support image, [image, feature].
            members: Their classes as one-hot rows, [image, way].
            parameters: Meta-parameters, for those of `extra_parameters`.
        """

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, shared = episodes.support, FastWeights(parameters, is_shared=True)
        compute = partial(self._with_head, ways=support.ways)
        query = episodes.query(engine.solve(shared, support, compute).tensors)
        outcome = engine.judge(shared, support, query, compute)
        gradients = {name: t.mean(0) for name, t in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        shared = FastWeights(parameters, is_shared=True)
        before = FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)
        return [before, engine.solve(shared, support, partial(self._with_head, ways=support.ways))]

    def _with_head(
        self, engine: Engine, parameters: Parameters, support: Labelled, ways: int
    ) -> dict[str, Tensor]:
        """Return one task's parameters with its own head."""
        features = engine.embed(parameters, support.images)
        weight, bias = self.head(features, support.one_hot(ways), parameters)
        own = {name: parameters[name] for name in engine.names}
        return own | {f"{engine.head}.weight": weight, f"{engine.head}.bias": bias}
