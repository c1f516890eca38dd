"""What an engine does for a meta-learner: passes over the tasks of a batch, and the values they take
and give.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from attrs import frozen
from torch import Tensor

from learnforge.kinds.form import form_of
from learnforge.kinds.seen.episodes import Labelled

Parameters = Mapping[str, Tensor]


@frozen(eq=False)
class FastWeights:
    """Parameters of several tasks.

    Args:
        tensors: {name: [task, …]}, or {name: […]} while all tasks still share them.
        is_shared: Whether the task axis is missing.
    """

    tensors: Parameters
    is_shared: bool = False

    def of(self, task: int) -> dict[str, Tensor]:
        """Return one task's parameters."""
        return {name: t if self.is_shared else t[task] for name, t in self.tensors.items()}

    def moved(self, gradients: Parameters, rates: float | Parameters) -> FastWeights:
        """Return theta - rate · gradient, where there is one; rates may differ by parameter."""
        tasks = len(next(iter(gradients.values())))
        return FastWeights(
            {
                name: _stepped(t, gradients[name], rates, name) if name in gradients else self._own(t, tasks)
                for name, t in self.tensors.items()
            }
        )

    def expanded(self, tasks: int) -> dict[str, Tensor]:
        """Return {name: [task, …]}, also while tasks share them."""
        return {name: self._own(t, tasks) for name, t in self.tensors.items()}

    def _own(self, tensor: Tensor, tasks: int) -> Tensor:
        return tensor.expand(tasks, *tensor.shape) if self.is_shared else tensor


@frozen(eq=False)
class Step:
    """The support gradient of every task, and what is needed to pull a gradient back through it.

    Args:
        gradients: {name: [task, …]}, detached, of the parameters that were asked for.
        losses: Support loss of each task, [task], detached.
        hessian_vector: From {name: [task, …]} of those parameters to the product of each task's Hessian with
            it, for all parameters.
    """

    gradients: dict[str, Tensor]
    losses: Tensor
    hessian_vector: Callable[[Parameters], dict[str, Tensor]]

    def pull_back(self, cotangent: Parameters, rates: float | Parameters) -> dict[str, Tensor]:
        """Return v - H (r v): the gradient before the step theta - r · g(theta), from the one after it."""
        own = {name: cotangent[name] for name in self.gradients}
        if isinstance(rates, Mapping):
            product = self.hessian_vector({name: rates[name] * t for name, t in own.items()})
            return {name: t - product[name] for name, t in cotangent.items()}
        product = self.hessian_vector(own)
        return {name: torch.sub(t, product[name], alpha=rates) for name, t in cotangent.items()}


@frozen(eq=False)
class Judgement:
    """What the query set says of adapted parameters.

    Args:
        gradients: {name: [task, …]} of the query loss with respect to the adapted parameters, detached.
        losses: [task].
        accuracies: [task], in [0, 1].
    """

    gradients: dict[str, Tensor]
    losses: Tensor
    accuracies: Tensor


Solution = Callable[["Engine", Parameters, Labelled], Mapping[str, Tensor]]
"""From the engine, one task's parameters and its support set to that task's adapted parameters of the
network, differentiably. May read further entries of the parameters; does not hand them on."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""From one task's outputs and labels to a scalar."""


def _stepped(theta: Tensor, gradient: Tensor, rates: float | Parameters, name: str) -> Tensor:
    """Return theta - rate · gradient, in one pass where the rate is a number."""
    if isinstance(rates, Mapping):
        return theta - rates[name] * gradient
    return torch.sub(theta, gradient, alpha=rates)


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
        return form_of("regression" if labels.is_floating_point() else "classification").loss(outputs, labels)

    def query_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss that adapted parameters are judged by; arguments as for `support_loss`."""
        return Rules.support_loss(self, outputs, labels)

    def predict(self, engine: Engine, parameters: Parameters, support: Labelled, images: Tensor) -> Tensor:
        """Return one task's outputs for its query images, [image, output]: by default the adapted network's.

        Args:
            engine: Runs the network.
            parameters: This task's adapted parameters.
            support: This task's support set, without the task axis.
            images: This task's query images.
        """
        return engine.query_outputs(parameters, support.images, images)


class Engine(ABC):
    """The passes of one network that a meta-learner is written with; each is over all tasks of a batch, but
    for those that say otherwise. Buffers, such as running statistics, are read and never changed.

    Attributes:
        names: The network's parameters.
        rules: Losses and predictions of a task.
        progress: Share of the meta-training that is done, in [0, 1); 1 outside of it.
    """

    names: Sequence[str]
    rules: Rules
    progress: float

    @property
    @abstractmethod
    def head(self) -> str:
        """Name of the linear layer that gives the outputs.

        Raises:
            StageError: The last layer is no linear one with a bias.
        """

    @abstractmethod
    def forward(self, parameters: Parameters, images: Tensor, reference: int | None = None) -> Tensor:
        """Run one task's network: [image, …] to [image, output].

        Args:
            parameters: One task's parameters.
            images: Normalised images.
            reference: How many images at the start give the batch statistics; None: all.
        """

    @abstractmethod
    def embed(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Return what goes into the head: one task's images to [image, feature]."""

    @abstractmethod
    def query_outputs(self, parameters: Parameters, support: Tensor, query: Tensor) -> Tensor:
        """Return the network's outputs for one task's query images, normalised as the policy says."""

    @abstractmethod
    def run(self, weights: FastWeights, images: Tensor) -> Tensor:
        """Return the network's outputs without gradients, normalised by the images themselves or as it came:
        [task, image, …] to [task, image, output].
        """

    @abstractmethod
    def step(self, weights: FastWeights, support: Labelled, names: Collection[str] | None = None) -> Step:
        """Compute the support gradient of every task, ready to be pulled back through.

        Args:
            weights: Where the gradient is taken.
            support: What the loss is of.
            names: Parameters that adapt; all of them by default.
        """

    @abstractmethod
    def judge(
        self,
        weights: FastWeights,
        support: Labelled,
        query: Labelled,
        solution: Solution | None = None,
        loss: Loss | None = None,
    ) -> Judgement:
        """Compute loss, accuracy and gradient of every task's query set at its adapted parameters.

        Args:
            weights: The adapted parameters, or where there is a solution what it starts from; the gradient is
                with respect to these.
            support: What the tasks were adapted to.
            query: What they are judged on.
            solution: Adapts by a formula, through which the gradient goes.
            loss: From one task's outputs and labels to a scalar; the rules' query loss by default.
        """

    @abstractmethod
    def solve(self, weights: FastWeights, support: Labelled, solution: Solution) -> FastWeights:
        """Return what a solution makes of every task's parameters and support set, without gradient."""

    @abstractmethod
    def predict(self, weights: FastWeights, support: Labelled, query: Labelled) -> Tensor:
        """Return the outputs for every task's query images: [task, image, output], without gradient."""

    @abstractmethod
    def accuracies(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the share of right classes of each task, [task]; NaN where targets are numbers.

        Args:
            outputs: [task, image, output].
            labels: [task, image], or [task, sample, column].
        """
