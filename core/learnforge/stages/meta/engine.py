"""The engine: the batched passes that meta-learners are written with, exact for any module.

A meta-learner adapts the same parameters to many tasks at once. An engine takes one inner step for all of
them, gives the query gradient of each, and pulls a gradient back through a step: with theta' = theta - r ·
g(theta), where g is the gradient of the support loss, the chain rule gives dL/dtheta = v - r · H(theta) v for
v = dL/dtheta' and the Hessian H of the support loss. That is all that second-order meta-learning needs, and
no graph has to live longer than a step.

Two engines compute the same numbers. `loop` goes from task to task with autograd and keeps the graph of each
step. `vmap` vectorises over tasks with vmap outermost (`vmap(grad(…))`): differentiating through a vmapped
inner loop gives wrong gradients for normalisation weights on current torch (pytorch/functorch#534), so `vmap`
recomputes a step to pull back.

Methods whose adaptation is a formula instead of steps, such as a ridge regression on the support set, hand it
over as a *solution*: a function of one task's parameters and support set, which the engine maps over tasks
and differentiates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from attrs import frozen
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from learnforge.episodes import Labelled
from learnforge.errors import StageError
from learnforge.stages.meta.normalisation import EpisodeNorm, Policy, prepare_normalisation

Parameters = Mapping[str, Tensor]
CHUNK = 8
"""Tasks that are computed at a time where they are vectorised; more would only need more memory."""


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


class Engine(ABC):
    """Computes the passes of one network. Buffers, such as running statistics, are read and never changed.

    Args:
        network: Any module; a copy of it is used.
        policy: Whose batch statistics normalise the query.
        rules: Losses and predictions of a task; the usual ones by default.

    Attributes:
        names: The network's parameters.
        progress: Share of the meta-training that is done, in [0, 1); 1 outside of it.
    """

    def __init__(self, network: nn.Module, policy: Policy, rules: Rules | None = None):
        self.policy = policy
        self.rules = rules or Rules()
        self._network = _differentiable_twice(prepare_normalisation(network, policy)).train(False)
        self._norms = [m for m in self._network.modules() if isinstance(m, EpisodeNorm)]
        self._buffers = dict(self._network.named_buffers())
        self.names = tuple(name for name, _ in self._network.named_parameters())
        self.progress = 1.0

    def forward(self, parameters: Parameters, images: Tensor, reference: int | None = None) -> Tensor:
        """Run one task's network: [image, …] to [image, output].

        Args:
            parameters: One task's parameters.
            images: Normalised images.
            reference: How many images at the start give the batch statistics; None: all.
        """
        for norm in self._norms:
            norm.reference = reference
        own = {name: parameters[name] for name in self.names}
        outputs: Tensor = functional_call(self._network, (own, self._buffers), (images,))
        return outputs

    @cached_property
    def head(self) -> str:
        """Name of the linear layer that gives the outputs: the last one that the network has.

        Raises:
            StageError: The last layer is no linear one with a bias; or in the next pass, it turns out not to
                give the outputs.
        """
        layers = [(n, m) for n, m in self._network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        name, layer = layers[-1] if layers else ("", self._network)
        if not isinstance(layer, nn.Linear) or layer.bias is None:
            raise StageError(
                f"the network must end in a linear layer with a bias for its head to be adapted alone, the "
                f"last layer of {type(self._network).__name__} is {name!r}, {layer}. Take a network "
                f"that does, or a meta-learner that adapts the whole network."
            )
        return name

    def embed(self, parameters: Parameters, images: Tensor) -> Tensor:
        """Return what goes into the head: one task's images to [image, feature]."""
        head = self._network.get_submodule(self.head)
        seen: list[Any] = []
        hook = head.register_forward_hook(lambda layer, given, output: seen.append((given[0], output)))
        try:
            outputs = self.forward(parameters, images, len(images))
        finally:
            hook.remove()
        if not seen or seen[-1][1] is not outputs:
            raise StageError(
                f"the last layer of {type(self._network).__name__}, {self.head!r}, must give the network's "
                f"outputs for its head to be adapted alone; define the head last"
            )
        features: Tensor = seen[-1][0]
        return features

    def run(self, weights: FastWeights, images: Tensor) -> Tensor:
        """Return the network's outputs without gradients, normalised by the images themselves or as it came:
        [task, image, …] to [task, image, output].
        """
        with torch.no_grad():
            return torch.stack([self.forward(weights.of(t), own) for t, own in enumerate(images)])

    def query_outputs(self, parameters: Parameters, support: Tensor, query: Tensor) -> Tensor:
        """Return the network's outputs for one task's query images, normalised as the policy says."""
        if self.policy not in ("support", "per-query") or not self._norms:
            return self.forward(parameters, query)
        if self.policy == "per-query":

            def judge_one(image: Tensor) -> Tensor:
                together = torch.cat([support, image[None]])
                return self.forward(parameters, together, len(together))[-1]

            outputs: Tensor = vmap(judge_one)(query)
            return outputs
        together = torch.cat([support, query])
        return self.forward(parameters, together, len(support))[len(support) :]

    def _support_loss(self, parameters: Parameters, images: Tensor, labels: Tensor) -> Tensor:
        return self.rules.support_loss(self.forward(parameters, images), labels)

    def _predict(self, parameters: Parameters, support: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return self.rules.predict(self, parameters, Labelled(support, labels), images)

    def _query_loss(
        self,
        solution: Solution | None,
        loss: Loss | None,
        parameters: Parameters,
        support: Tensor,
        support_labels: Tensor,
        images: Tensor,
        labels: Tensor,
    ) -> tuple[Tensor, Tensor]:
        if solution is not None:
            parameters = solution(self, parameters, Labelled(support, support_labels))
        outputs = self._predict(parameters, support, support_labels, images)
        return (loss or self.rules.query_loss)(outputs, labels), outputs

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

    def accuracies(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the share of right classes of each task, [task]; NaN where targets are numbers.

        Args:
            outputs: [task, image, output].
            labels: [task, image], or [task, sample, column].
        """
        return _accuracy(outputs, labels)

    def measure_statistics(self, parameters: Parameters, images: Tensor) -> dict[str, Tensor]:
        """Return the buffers that make an ordinary network, in eval mode, normalise as the policy does.

        Args:
            parameters: One task's adapted parameters.
            images: Its support images.
        """
        if self.policy == "running" or not self._norms:
            return {}
        with torch.no_grad():
            self.forward(parameters, images, len(images))
        buffers: dict[str, Tensor] = {}
        for name, module in self._network.named_modules():
            if isinstance(module, EpisodeNorm):
                buffers[f"{name}.running_mean"], buffers[f"{name}.running_var"] = module.statistics
        return buffers


class LoopEngine(Engine):
    """One task after the other, with autograd."""

    def step(self, weights: FastWeights, support: Labelled, names: Collection[str] | None = None) -> Step:
        tasks = len(support.labels)
        asked = [name for name in weights.tensors if names is None or name in names]
        leaves, losses, gradients = [], [], []
        for task in range(tasks):
            theta = {name: t.detach().requires_grad_() for name, t in weights.of(task).items()}
            with torch.enable_grad():
                loss = self._support_loss(theta, support.images[task], support.labels[task])
                found = torch.autograd.grad(
                    loss, [theta[name] for name in asked], create_graph=True, materialize_grads=True
                )
            leaves.append(theta)
            losses.append(loss.detach())
            gradients.append(dict(zip(asked, found, strict=True)))

        def hessian_vector(cotangent: Parameters) -> dict[str, Tensor]:
            return _stack(
                [
                    _pulled(gradients[t], leaves[t], {n: c[t] for n, c in cotangent.items()})
                    for t in range(tasks)
                ]
            )

        return Step(
            _stack([{n: g.detach() for n, g in found.items()} for found in gradients]),
            torch.stack(losses),
            hessian_vector,
        )

    def judge(
        self,
        weights: FastWeights,
        support: Labelled,
        query: Labelled,
        solution: Solution | None = None,
        loss: Loss | None = None,
    ) -> Judgement:
        judge = partial(self._query_loss, solution, loss)
        gradients, losses, accuracies = [], [], []
        for task in range(len(query.labels)):
            theta = {name: t.detach().requires_grad_() for name, t in weights.of(task).items()}
            with torch.enable_grad():
                own, outputs = judge(theta, *_one(support, task), *_one(query, task))
                found = torch.autograd.grad(own, list(theta.values()), materialize_grads=True)
            gradients.append(dict(zip(theta, found, strict=True)))
            losses.append(own.detach())
            accuracies.append(_accuracy(outputs.detach(), query.labels[task]))
        return Judgement(_stack(gradients), torch.stack(losses), torch.stack(accuracies))

    def solve(self, weights: FastWeights, support: Labelled, solution: Solution) -> FastWeights:
        with torch.no_grad():
            found = [
                solution(self, weights.of(task), Labelled(*_one(support, task)))
                for task in range(len(support.labels))
            ]
        return FastWeights(_stack(found))

    def predict(self, weights: FastWeights, support: Labelled, query: Labelled) -> Tensor:
        with torch.no_grad():
            return torch.stack(
                [
                    self._predict(weights.of(task), *_one(support, task), query.images[task])
                    for task in range(len(query.labels))
                ]
            )


class VmapEngine(Engine):
    """All tasks at once, vmap outermost."""

    def run(self, weights: FastWeights, images: Tensor) -> Tensor:
        axis = None if weights.is_shared else 0
        with torch.no_grad():
            outputs: Tensor = vmap(self.forward, in_dims=(axis, 0))(dict(weights.tensors), images)
            return outputs

    def step(self, weights: FastWeights, support: Labelled, names: Collection[str] | None = None) -> Step:
        theta = dict(weights.tensors)
        axis = None if weights.is_shared else 0
        asked = [name for name in theta if names is None or name in names]

        def gradient(parameters: Parameters, images: Tensor, labels: Tensor) -> Any:
            def loss(moving: Parameters) -> Tensor:
                return self._support_loss({**parameters, **moving}, images, labels)

            return torch.func.grad_and_value(loss)({name: parameters[name] for name in asked})

        def product(parameters: Parameters, vector: Parameters, images: Tensor, labels: Tensor) -> Any:
            def slope(at: Parameters) -> Tensor:
                found, _ = gradient(at, images, labels)
                return torch.stack([(found[name] * vector[name]).sum() for name in asked]).sum()

            return grad(slope)(parameters)

        def hessian_vector(cotangent: Parameters) -> dict[str, Tensor]:
            run = vmap(product, in_dims=(axis, 0, 0, 0), chunk_size=CHUNK)
            found: dict[str, Tensor] = run(theta, dict(cotangent), support.images, support.labels)
            return found

        run = vmap(gradient, in_dims=(axis, 0, 0), chunk_size=CHUNK)
        gradients, losses = run(theta, support.images, support.labels)
        return Step(gradients, losses, hessian_vector)

    def judge(
        self,
        weights: FastWeights,
        support: Labelled,
        query: Labelled,
        solution: Solution | None = None,
        loss: Loss | None = None,
    ) -> Judgement:
        axis = None if weights.is_shared else 0
        slope = torch.func.grad_and_value(partial(self._query_loss, solution, loss), has_aux=True)
        run = vmap(slope, in_dims=(axis, 0, 0, 0, 0), chunk_size=CHUNK)
        pairs = (support.images, support.labels, query.images, query.labels)
        gradients, (losses, outputs) = run(dict(weights.tensors), *pairs)
        return Judgement(gradients, losses, _accuracy(outputs, query.labels))

    def solve(self, weights: FastWeights, support: Labelled, solution: Solution) -> FastWeights:
        def adapt(parameters: Parameters, images: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
            return solution(self, parameters, Labelled(images, labels))

        axis = None if weights.is_shared else 0
        with torch.no_grad():
            run = vmap(adapt, in_dims=(axis, 0, 0), chunk_size=CHUNK)
            return FastWeights(run(dict(weights.tensors), support.images, support.labels))

    def predict(self, weights: FastWeights, support: Labelled, query: Labelled) -> Tensor:
        axis = None if weights.is_shared else 0
        with torch.no_grad():
            run = vmap(self._predict, in_dims=(axis, 0, 0, 0), chunk_size=CHUNK)
            outputs: Tensor = run(dict(weights.tensors), support.images, support.labels, query.images)
            return outputs


class _HardSigmoid(nn.Module):
    """clip((x + 3) / 6, 0, 1), as torch's own, which has no second derivative."""

    def forward(self, images: Tensor) -> Tensor:
        return F.relu6(images + 3) / 6


def _differentiable_twice(network: nn.Module) -> nn.Module:
    """Put equal functions in the place of those that torch cannot differentiate twice (as in MobileNetV3)."""
    found = [name for name, module in network.named_modules() if isinstance(module, nn.Hardsigmoid)]
    for name in found:
        network.set_submodule(name, _HardSigmoid())
    return network


def _usual_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        if outputs.shape != labels.shape:
            want, got = list(labels.shape), list(outputs.shape)
            raise StageError(f"outputs must have the targets' shape {want}, the network gives {got}")
        return F.mse_loss(outputs, labels)
    return F.cross_entropy(outputs, labels)


def _stepped(theta: Tensor, gradient: Tensor, rates: float | Parameters, name: str) -> Tensor:
    """Return theta - rate · gradient, in one pass where the rate is a number."""
    if isinstance(rates, Mapping):
        return theta - rates[name] * gradient
    return torch.sub(theta, gradient, alpha=rates)


def _one(labelled: Labelled, task: int) -> tuple[Tensor, Tensor]:
    return labelled.images[task], labelled.labels[task]


def _accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right classes over the last axis of the labels; NaN where labels are no classes."""
    if labels.is_floating_point():
        return outputs.new_full(outputs.shape[:-2], float("nan"))
    return (outputs.argmax(-1) == labels).double().mean(-1)


def _stack(tasks: Sequence[Parameters]) -> dict[str, Tensor]:
    return {name: torch.stack([task[name] for task in tasks]) for name in tasks[0]}


def _pulled(gradients: Parameters, leaves: Parameters, cotangent: Parameters) -> dict[str, Tensor]:
    """Return the product of one task's Hessian with a vector, through the graph of its gradient."""
    outputs = [(g, cotangent[name]) for name, g in gradients.items() if g.requires_grad]
    found = torch.autograd.grad(
        [g for g, _ in outputs],
        list(leaves.values()),
        [c for _, c in outputs],
        materialize_grads=True,
        retain_graph=True,
    )
    return dict(zip(leaves, found, strict=True))
