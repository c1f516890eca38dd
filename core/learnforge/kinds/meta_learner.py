"""The kind `meta-learner`: learns to learn from a few examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from attrs import field, frozen
from torch import Tensor, nn

from learnforge.errors import StageError
from learnforge.kinds.engine import Engine, FastWeights, Parameters
from learnforge.kinds.episodes import Episodes, Labelled


class Rules:
    """What one task's outputs and losses are. A meta-learner may have its own; these are cross-entropy for
    classes and the mean squared error for numbers.
    """

    def support_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss that inner steps follow.

        Args:
            outputs: [image, output], the network's for the support set.
            labels: int64 [image], or float [sample, column] for tasks whose targets are numbers.
        """
        return _usual_loss(outputs, labels)

    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss that adapted parameters are judged by; arguments as for `support_loss`."""
        return _usual_loss(outputs, labels)

    def predict(self, engine: Engine, parameters: Parameters, support: Labelled, images: Tensor) -> Tensor:
        """Return one task's outputs for its query images, [image, output]: by default the adapted network's.

        Args:
            engine: Runs the network.
            parameters: This task's adapted parameters.
            support: This task's support set, without the task axis.
            images: This task's query images.
        """
        return engine.query_outputs(parameters, support.images, images)


def _usual_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        if outputs.shape != labels.shape:
            want, got = list(labels.shape), list(outputs.shape)
            raise StageError(f"outputs must have the targets' shape {want}, the network gives {got}")
        return F.mse_loss(outputs, labels)
    return F.cross_entropy(outputs, labels)


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

    def prepare(self, network: nn.Module, outputs: int, ways: int) -> nn.Module:
        """Return the network that is meta-learnt; by default the one given.

        Args:
            network: The network with its weights, and with a fresh head of `ways` outputs
                unless `keeps_head`.
            outputs: Outputs that it has.
            ways: Classes in an episode.
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
