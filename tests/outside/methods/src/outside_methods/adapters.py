"""A meta-learner that adds adapters to the network and learns them with it.

    h = x + W_up relu(W_down x)

Reference:
    Houlsby, Giurgiu, Jastrzebski, Morrone, de Laroussilhe, Gesmundo, Attariyan & Gelly, Parameter-efficient
    transfer learning for NLP, 2019. arXiv:1902.00751
"""

from __future__ import annotations

from collections import OrderedDict
from typing import ClassVar

from attrs import field, frozen
from attrs.validators import ge, gt
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
from learnforge_kit import find_head


class _Adapter(nn.Module):
    def __init__(self, head: nn.Linear, width: int):
        super().__init__()
        like = {"device": head.weight.device, "dtype": head.weight.dtype}
        self.down = nn.Linear(head.in_features, width, **like)
        self.up = nn.Linear(width, head.in_features, **like)

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = features + self.up(self.down(features).relu())
        return changed


@frozen
class Adapters(Change):
    """A residual bottleneck before the head.

    Args:
        width: Features of the bottleneck, from 1.
    """

    width: int = field(default=4, validator=ge(1))

    name: ClassVar[str] = "adapters"

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        name = find_head(network, task)
        head = network.get_submodule(name)
        assert isinstance(head, nn.Linear)
        network.set_submodule(name, nn.Sequential(OrderedDict(adapter=_Adapter(head, self.width), head=head)))
        return network


@frozen
class AdaptedMAML(MetaLearner):
    """First-order MAML of a network with adapters.

    Args:
        width: Features of the adapters, from 1.
        rate: Inner learning rate, above 0.
    """

    width: int = field(default=4, validator=ge(1))
    rate: float = field(default=0.1, validator=gt(0.0))

    def prepare(self, network: nn.Module, episode: TaskInfo) -> nn.Module:
        return apply_change(network, Adapters(self.width), episode)

    def gradient(self, engine: Engine, parameters: Parameters, episodes: Episodes) -> MetaGradient:
        support = episodes.support
        adapted = self.adapt(engine, parameters, support)[-1]
        outcome = engine.judge(adapted, support, episodes.query(adapted.tensors))
        gradients = {name: g.mean(0) for name, g in outcome.gradients.items()}
        return MetaGradient(gradients, outcome.losses, outcome.accuracies)

    def adapt(self, engine: Engine, parameters: Parameters, support: Labelled) -> list[FastWeights]:
        start = FastWeights({name: parameters[name] for name in engine.names}, is_shared=True)
        return [start, start.moved(engine.step(start, support).gradients, self.rate)]


@hookimpl
def learnforge_changes() -> dict[str, type[Change]]:
    return {Adapters.name: Adapters}


@hookimpl
def learnforge_meta_learners() -> dict[str, type[MetaLearner]]:
    return {"adapted-maml": AdaptedMAML}
