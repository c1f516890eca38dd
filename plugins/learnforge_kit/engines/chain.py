"""The engine `chain`: networks that are a chain of known layers, without an autograd graph.

`torch.fx` reads the network; convolutions, batch normalisation, rectifiers, pooling and linear layers become
links with hand-derived derivatives (`links.py`) that take all tasks at once. In the first inner step all
tasks share their weights, so its passes are ordinary convolutions. Meta-gradients are those of the other
engines to rounding, about twice as fast for the networks of few-shot learning, where those spend their time
in calls of small operators.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from attrs import field, frozen
from torch import Tensor, fx, nn

from learnforge.errors import StageError
from learnforge.kinds.seen.engine import FastWeights, Judgement, Loss, Parameters, Rules, Solution, Step
from learnforge.kinds.seen.episodes import Labelled
from learnforge_kit.engines.links import (
    Convolution,
    Dense,
    Flatten,
    HyperbolicTangent,
    Kept,
    Link,
    MaxPool,
    Mean,
    Normalisation,
    Rectifier,
)
from learnforge_kit.engines.loop import LoopEngine
from learnforge_kit.engines.normalisation import EpisodeNorm, Policy
from learnforge_kit.engines.vmap import CHUNK


class ChainEngine(LoopEngine):
    """All tasks at once, for networks that are chains; solutions go by the loop.

    Raises:
        StageError: The network is no chain of known layers, or rules or policy are others than the usual
            ones; says which.
    """

    def __init__(self, network: nn.Module, policy: Policy, rules: Rules | None = None):
        super().__init__(network, policy, rules)
        changed = [n for n in ("support_loss", "query_loss", "predict") if _is_changed(self.rules, n)]
        if changed:
            raise StageError(
                f"the engine chain knows the usual losses and predictions, {type(self.rules).__name__} has "
                f"its own {', '.join(changed)}"
            )
        if policy not in ("support", "transductive"):
            raise StageError(f"the engine chain normalises by batches, not by the policy {policy!r}")
        self._links = read_chain(self._network)
        self._is_proved = False

    def step(self, weights: FastWeights, support: Labelled, names: Collection[str] | None = None) -> Step:
        if support.labels.is_floating_point():
            return super().step(weights, support, names)
        self._prove(weights, support.images[:1])
        asked = frozenset(self.names if names is None else names)
        passes, gradients, losses = [], [], []
        for part in _chunks(support):
            run = _Pass(self._links, _of(weights, part))
            logits = run.forward(support.images[part])
            own, chances, found = _cross_entropy(logits, support.labels[part])
            gradients.append({name: g for name, g in run.backward(found).items() if name in asked})
            passes.append((part, run, chances))
            losses.append(own)

        def hessian_vector(cotangent: Parameters) -> dict[str, Tensor]:
            return _joined(
                [
                    run.hessian_vector({name: t[part] for name, t in cotangent.items()}, chances)
                    for part, run, chances in passes
                ]
            )

        return Step(_joined(gradients), torch.cat(losses), hessian_vector)

    def judge(
        self,
        weights: FastWeights,
        support: Labelled,
        query: Labelled,
        solution: Solution | None = None,
        loss: Loss | None = None,
    ) -> Judgement:
        if solution is not None or loss is not None or query.labels.is_floating_point():
            return super().judge(weights, support, query, solution, loss)
        self._prove(weights, query.images[:1])
        gradients, losses, accuracies = [], [], []
        for part in _chunks(query):
            run = _Pass(self._links, _of(weights, part))
            logits, hidden = self._run_query(run, support.images[part], query.images[part])
            own, _, found = _cross_entropy(logits, query.labels[part])
            gradients.append(run.backward(F.pad(found, (0, 0, hidden, 0))))
            losses.append(own)
            accuracies.append(self.accuracies(logits, query.labels[part]))
        return Judgement(_joined(gradients), torch.cat(losses), torch.cat(accuracies))

    def predict(self, weights: FastWeights, support: Labelled, query: Labelled) -> Tensor:
        self._prove(weights, query.images[:1])
        parts = [
            self._run_query(
                _Pass(self._links, _of(weights, part)),
                support.images[part],
                query.images[part],
            )[0]
            for part in _chunks(query)
        ]
        return torch.cat(parts)

    def _prove(self, weights: FastWeights, images: Tensor) -> None:
        """Compare the links with the network on the first images, in case that reading it missed something.

        Raises:
            StageError: They differ.
        """
        if self._is_proved:
            return
        with torch.no_grad():
            expected = self.forward(weights.of(0), images[0])
        try:
            found = _Pass(self._links, _of(weights, slice(1))).forward(images)[0]
            is_same = torch.allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        except (RuntimeError, ValueError):  # shapes that do not fit
            is_same = False
        if not is_same:
            raise StageError(
                f"the engine chain does not compute what {type(self._network).__name__} does; choose the "
                f"engine loop or vmap"
            )
        self._is_proved = True

    def _run_query(self, run: _Pass, support: Tensor, query: Tensor) -> tuple[Tensor, int]:
        """Return the query's outputs, and how many support images went before them."""
        if self.policy == "transductive" or not self._norms:
            return run.forward(query), 0
        hidden = support.shape[1]
        return run.forward(torch.cat([support, query], 1), hidden)[:, hidden:], hidden


@frozen(eq=False)
class _Pass:
    """One way of a batch of tasks through the links, and what they keep of it."""

    links: list[Link]
    theta: Parameters
    kept: list[Kept] = field(factory=list)

    def forward(self, images: Tensor, reference: int | None = None) -> Tensor:
        """Run [task, image, channel, height, width] to [task, image, output]."""
        self.kept[:] = [Kept() for _ in self.links]
        x = images.detach().permute(0, 1, 3, 4, 2).contiguous()
        for link, kept in zip(self.links, self.kept, strict=True):
            x = link.forward(x, self.theta, kept, reference)
        return x

    def backward(self, dy: Tensor) -> dict[str, Tensor]:
        """Return the gradients of all parameters, [task, …]."""
        found: dict[str, Tensor] = {}
        for number in reversed(range(len(self.links))):
            dy, own = self.links[number].backward(dy, self.theta, self.kept[number], number == 0)
            found |= own
        return found

    def hessian_vector(self, v: Parameters, chances: Tensor) -> dict[str, Tensor]:
        """Return the product of the support loss's Hessian with v, by a change of everything along v."""
        x: Tensor | None = None
        for link, kept in zip(self.links, self.kept, strict=True):
            x = link.tangent(x, self.theta, v, kept)
        assert x is not None
        change, found = _change_of_slope(chances, x), dict[str, Tensor]()
        for number in reversed(range(len(self.links))):
            link, kept = self.links[number], self.kept[number]
            change, own = link.backward_tangent(change, self.theta, v, kept, number == 0)
            found |= own
        return found


def read_chain(network: nn.Module) -> list[Link]:
    """Return a network as links, in order.

    Raises:
        StageError: It branches, or has a layer that is not known; says which.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception as error:  # tracing runs the network's own code, which may do anything
        raise StageError(f"{type(network).__name__} cannot be traced: {error}") from error
    called, modules, links = type(network).__name__, dict(network.named_modules()), list[Link]()
    *nodes, output = graph.nodes
    if output.args != (nodes[-1],):
        raise StageError(f"{called} is no chain: it returns {output.args[0]}, not its last layer {nodes[-1]}")
    for before, node in itertools.pairwise(nodes):
        if node.all_input_nodes != [before]:
            raise StageError(f"{called} is no chain: {node} does not follow {before} alone")
        link = _link_of(node, modules)
        if link is None:
            raise StageError(f"the engine chain does not know {node.format_node()}")
        links += [link] if link is not _NOTHING else []
    own = [name for link in links for name in link.parameters]
    wanted = [name for name, _ in network.named_parameters()]
    strange = sorted({name for name in {*own, *wanted} if own.count(name) != 1 or name not in wanted})
    if strange:
        raise StageError(f"the parameters {', '.join(strange)} must each belong to one layer of the chain")
    return links


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, EpisodeNorm) or super().is_leaf_module(m, module_qualified_name)


_NOTHING: Any = object()
"""Stands for a layer that changes nothing."""

_FUNCTIONS = {
    torch.relu: Rectifier,
    F.relu: Rectifier,
    torch.tanh: HyperbolicTangent,
    torch.flatten: Flatten,
    "relu": Rectifier,
    "tanh": HyperbolicTangent,
    "flatten": Flatten,
}


def _link_of(node: fx.Node, modules: Mapping[str, nn.Module]) -> Link | None:
    """Return the link that a node is, or None where it is not known."""
    if node.op == "call_module":
        return _link_of_module(str(node.target), modules[str(node.target)])
    if node.target in (torch.mean, "mean"):
        return _link_of_mean(*node.args[1:], **node.kwargs)
    cls: Any = _FUNCTIONS.get(node.target)
    if cls is Flatten:
        is_plain = (node.args[1:] == (1,) and not node.kwargs) or node.kwargs == {"start_dim": 1}
        return Flatten() if is_plain else None
    return cls() if cls is not None else None


def _link_of_mean(dim: Any = None, keepdim: Any = False, **others: Any) -> Link | None:
    axes = tuple(dim) if isinstance(dim, (tuple, list)) else ()
    return Mean(bool(keepdim)) if axes in ((2, 3), (-2, -1)) and not others else None


_KNOWN = (
    nn.Conv2d, nn.Linear, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity,
    nn.Dropout, nn.Dropout2d, nn.ReLU, nn.Tanh,
)  # fmt: skip


def _link_of_module(name: str, module: nn.Module) -> Link | None:
    is_known = type(module) in _KNOWN or (isinstance(module, EpisodeNorm) and module.is_plain)
    if not is_known or module._forward_hooks or module._forward_pre_hooks:
        return None  # a subclass, or a hook, may compute something else
    if isinstance(module, nn.Conv2d):
        is_plain = module.groups == 1 and module.dilation == (1, 1) and module.padding_mode == "zeros"
        return Convolution(name, module) if is_plain and not isinstance(module.padding, str) else None
    if isinstance(module, EpisodeNorm):
        return Normalisation(name, module)
    if isinstance(module, nn.Linear):
        return Dense(name, module.bias is not None)
    if isinstance(module, nn.MaxPool2d):
        return MaxPool(module) if _pools_plainly(module) else None
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return Mean(keeps_place=True) if module.output_size in (1, (1, 1)) else None
    if isinstance(module, nn.Flatten):
        return Flatten() if (module.start_dim, module.end_dim) == (1, -1) else None
    if isinstance(module, nn.ReLU):
        return Rectifier()
    if isinstance(module, nn.Tanh):
        return HyperbolicTangent()
    return _NOTHING  # type: ignore[no-any-return] # engines run networks in eval mode


def _pools_plainly(module: nn.MaxPool2d) -> bool:
    return module.padding in (0, (0, 0)) and module.dilation in (1, (1, 1)) and not module.ceil_mode


def _is_changed(rules: Rules, name: str) -> bool:
    return getattr(type(rules), name) is not getattr(Rules, name)


def _chunks(labelled: Labelled) -> list[slice]:
    tasks = len(labelled.labels)
    return [slice(start, min(start + CHUNK, tasks)) for start in range(0, tasks, CHUNK)]


def _of(weights: FastWeights, part: slice) -> dict[str, Tensor]:
    """Return the parameters of some tasks."""
    return {n: t.detach() if weights.is_shared else t[part].detach() for n, t in weights.tensors.items()}


def _joined(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return parts[0] if len(parts) == 1 else {n: torch.cat([part[n] for part in parts]) for n in parts[0]}


def _cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the loss of each task, the probabilities, and the slope of the loss in the logits."""
    logs = logits.log_softmax(2)
    losses = -logs.gather(2, labels[:, :, None]).mean((1, 2))
    chances = logs.exp()
    slope = chances.scatter_add(2, labels[:, :, None], -torch.ones_like(chances[:, :, :1]))
    return losses, chances, slope / labels.shape[1]


def _change_of_slope(chances: Tensor, change: Tensor) -> Tensor:
    """Return how the slope of the cross-entropy changes where the logits change."""
    weighted = chances * change
    return (weighted - chances * weighted.sum(2, keepdim=True)) / chances.shape[1]
