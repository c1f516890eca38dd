"""Matching network: a query's label is the support labels' average, weighted by similarity.

    score of class c = log sum over supports i of class c of softmax_i(s * cos(f(x), f(x_i)))

Reference:
    Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, Matching networks for one shot learning, 2016.
    arXiv:1606.04080
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from attrs import field, frozen
from attrs.validators import ge
from torch import Tensor, nn

from learnforge import (
    Change,
    Engine,
    Episodes,
    FastWeights,
    Labelled,
    MetaGradient,
    MetaLearner,
    Parameters,
    TaskInfo,
    apply_change,
    hookimpl,
)

SCALE = 10.0


def match(features: Tensor, known: Tensor, members: Tensor) -> Tensor:
    """Return class scores [image, class]; `members` is [class, support], 1 where a support is of a class."""
    weights = (SCALE * F.normalize(features, dim=1) @ F.normalize(known, dim=1).T).softmax(1)
    return (weights @ members.T).clamp_min(1e-6).log()


class _Matching(nn.Module):
    def __init__(self, network: nn.Module, images: int, outputs: int):
        super().__init__()
        self.network = network
        like = next(network.parameters())
        for name, rows, columns in (("known", images, outputs), ("members", outputs, images)):
            self.register_buffer(name, torch.zeros(rows, columns, device=like.device, dtype=like.dtype))

    def forward(self, images: Tensor) -> Tensor:
        return match(self.network(images), self.get_buffer("known"), self.get_buffer("members"))


@frozen
class MatchingHead(Change):
    """Scores by similarity to images that it keeps.

    Args:
        images: How many.
    """

    images: int = field(default=3, validator=ge(1))

    name: ClassVar[str] = "matching-head"

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        return _Matching(network, self.images, task.outputs)


@frozen
class Matching(MetaLearner):
    """Matching network whose features are the network's outputs. It has no options."""

    takes_steps: ClassVar[bool] = False

    def predict(self, engine: Engine, parameters: Parameters, support: Labelled, images: Tensor) -> Tensor:
        known = engine.forward(parameters, support.images)
        ways = known.shape[1]
        members = (support.labels == torch.arange(ways, device=images.device)[:, None]).to(images.dtype)
        return match(engine.query_outputs(parameters, support.images, images), known, members)

    def deploy(
        self, engine: Engine, network: nn.Module, adapted: Parameters, support: Labelled, task: TaskInfo
    ) -> nn.Module:
        known = network(support.images)
        ways = torch.arange(task.outputs, device=known.device)
        deployed = apply_change(network, MatchingHead(len(known)), task)
        deployed.get_buffer("known").copy_(known)
        deployed.get_buffer("members").copy_(support.labels == ways[:, None])
        return deployed

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support, weights = episodes.support, FastWeights(parameters, is_shared=True)
        outcome = engine.judge(weights, support, episodes.query(parameters))
        gradients = {name: g.mean(0) for name, g in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        return [FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)]


@hookimpl
def learnforge_changes() -> dict[str, type[Change]]:
    return {MatchingHead.name: MatchingHead}


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"matching": Matching}
