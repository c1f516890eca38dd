"""The kind `meta-learner`: learns to learn from a few examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from attrs import field, frozen
from torch import Tensor, nn

from learnforge.kinds.seen.engine import Engine, FastWeights, Parameters, Rules
from learnforge.kinds.seen.episodes import Episodes, Labelled
from learnforge.spec import TaskInfo


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

    Meta-parameters are the network's parameters, by name, and those of `extra_parameters`. The meta stage
    samples episodes, calls `gradient`, runs the outer optimizer, checkpoints and evaluates. Losses and
    predictions of a task (`support_loss`, `query_loss`, `predict`) are cross-entropy and the adapted
    network's outputs, unless a method says otherwise.
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
    """Whether it adapts the head alone, a linear layer with a bias, by what `Engine.embed` gives."""

    shaped_as_weights: ClassVar[tuple[str, ...]] = ()
    """Prefixes of extra or carried tensors that have the shape of the parameter that they are named after,
    `prefix + name`; those of the head are resized with it for other numbers of classes."""

    keeps_head: ClassVar[bool] = False
    """Whether the network goes on with the head that it has; by default it gets a fresh one."""

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

    def prepare(self, network: nn.Module, episode: TaskInfo) -> nn.Module:
        """Return the network that is meta-learnt; by default the one given. What it adds, such as adapters,
        it adds by `apply_change`.

        Args:
            network: The network with its weights, and with a fresh head for the classes of an episode unless
                `keeps_head`.
            episode: The task of an episode: its ways are the classes.
        """
        return network

    def deploy(
        self, engine: Engine, network: nn.Module, adapted: Parameters, support: Labelled, task: TaskInfo
    ) -> nn.Module:
        """Return the network for the classes of one support set, which is saved and exported; by default the
        one given, whose weights and batch statistics are the adapted ones already.

        A method whose `predict` is its own must have its own `deploy` too, so that the rule outlives the
        support set: a change that keeps what it needs as buffers, made by `apply_change`.

        Args:
            engine: Runs the network.
            network: The network, in eval mode, with the adapted weights.
            adapted: Meta-parameters and adapted parameters of the task.
            support: The support set, without the task axis.
            task: Its classes.
        """
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
