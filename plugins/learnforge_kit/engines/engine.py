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

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from learnforge.errors import StageError
from learnforge.kinds.seen.engine import Engine, FastWeights, Loss, Parameters, Rules, Solution
from learnforge.kinds.seen.episodes import Labelled
from learnforge_kit.engines.normalisation import EpisodeNorm, Policy, prepare_normalisation


class NetworkEngine(Engine):
    """What all engines share: the passes of one network. A subclass computes the steps over all tasks.

    Args:
        network: Any module; a copy of it is used.
        policy: Whose batch statistics normalise the query.
        rules: Losses and predictions of a task; the usual ones by default.
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

    @property
    def head_alone(self) -> nn.Module | None:
        """The head, where the network below it sees each image by itself; None where statistics of an episode
        normalise it, or the network is but the head.
        """
        sees_others = self._norms and self.policy != "running"
        return None if sees_others or not self.head else self._network.get_submodule(self.head)

    def embed(self, parameters: Parameters, images: Tensor) -> Tensor:
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
        with torch.no_grad():
            return torch.stack([self.forward(weights.of(t), own) for t, own in enumerate(images)])

    def query_outputs(self, parameters: Parameters, support: Tensor, query: Tensor) -> Tensor:
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

    def accuracies(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return share_right(outputs, labels)

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


class _HardSigmoid(nn.Module):
    """clip((x + 3) / 6, 0, 1), as torch's own, which has no second derivative."""

    def forward(self, images: Tensor) -> Tensor:
        return F.relu6(images + 3) / 6


def _differentiable_twice(network: nn.Module) -> nn.Module:
    """Put equal functions in the place of those that torch cannot differentiate twice (as in MobileNetV3)."""
    found = [name for name, module in network.named_modules() if type(module) is nn.Hardsigmoid]
    for name in found:
        network.set_submodule(name, _HardSigmoid())
    return network


def of_task(labelled: Labelled, task: int) -> tuple[Tensor, Tensor]:
    """Return the images and labels of one task."""
    return labelled.images[task], labelled.labels[task]


def share_right(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right classes over the last axis of the labels; NaN where labels are no classes."""
    if labels.is_floating_point():
        return outputs.new_full(outputs.shape[:-2], float("nan"))
    return (outputs.argmax(-1) == labels).double().mean(-1)


def stack_tasks(tasks: Sequence[Parameters]) -> dict[str, Tensor]:
    """Put the tensors of several tasks behind one another, along a first axis of tasks."""
    return {name: torch.stack([task[name] for task in tasks]) for name in tasks[0]}


def hessian_product(gradients: Parameters, leaves: Parameters, cotangent: Parameters) -> dict[str, Tensor]:
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
