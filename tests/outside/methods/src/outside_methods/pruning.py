"""A stage that removes channels: those of the first convolutions with the smallest weights are cut out.

Reference:
    Li, Kadav, Durdanovic, Samet & Graf, Pruning filters for efficient ConvNets, 2017. arXiv:1608.08710
Differs:
    The first convolution alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from attrs import evolve, field, frozen
from attrs.validators import deep_iterable, ge, gt, lt
from torch import nn

from learnforge import (
    Artifact,
    Change,
    Context,
    Reference,
    Stage,
    Task,
    TaskInfo,
    apply_change,
    hookimpl,
    plugin_field,
)
from learnforge_kit import evaluate


@frozen
class Narrower(Change):
    """The first convolution, its normalisation and the convolution behind them have fewer channels.

    Args:
        kept: Numbers of the channels that stay.
    """

    kept: tuple[int, ...] = field(default=(0, 2), validator=deep_iterable(ge(0)))

    name: ClassVar[str] = "narrower"

    def apply(self, network: nn.Module, task: TaskInfo) -> nn.Module:
        kept = torch.tensor(self.kept)
        layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))][:3]
        first, norm, second = layers
        assert isinstance(first, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(second, (nn.Conv2d, nn.Linear))
        kept = kept.to(first.weight.device)
        places = second.weight.shape[1] // first.out_channels  # of a flattened channel, in a linear layer
        columns = (kept[:, None] * places + torch.arange(places, device=kept.device)).flatten()
        second.weight = nn.Parameter(second.weight.detach()[:, columns])
        if isinstance(second, nn.Conv2d):
            second.in_channels = len(kept)
        else:
            second.in_features = len(columns)
        first.weight = nn.Parameter(first.weight.detach()[kept])
        first.bias = None if first.bias is None else nn.Parameter(first.bias.detach()[kept])
        first.out_channels = norm.num_features = len(kept)
        for tensors, parameters in ((norm._parameters, True), (norm._buffers, False)):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.ndim:
                    tensors[name] = nn.Parameter(tensor.detach()[kept]) if parameters else tensor[kept]
        return network


@frozen(kw_only=True)
class PruneChannels(Stage):
    """Remove the channels of the first convolution with the smallest weights.

    Args:
        source: TOML key `from`: what to prune; the stage above by default.
        share: Share of the channels to remove, in (0, 1).
    """

    source: Reference = plugin_field("model", default=None, reference=True, key="from")
    share: float = field(default=0.5, validator=[gt(0.0), lt(1.0)])
    kind: ClassVar[str] = "prune-channels"

    def run(self, task: Task, inputs: Mapping[str, Artifact], context: Context) -> Artifact:
        network = inputs["source"].network(context.plugins).eval()
        first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        sizes = first.weight.abs().sum((1, 2, 3))
        count = max(1, round(len(sizes) * (1 - self.share)))
        kept = tuple(sorted(sizes.topk(count).indices.tolist()))
        network = apply_change(network, Narrower(kept), task.info)
        accuracy = evaluate(network, task.test, task.info).accuracy
        return evolve(inputs["source"], metrics={"test_accuracy": accuracy}).with_state(network)


@hookimpl
def learnforge_changes() -> dict[str, type[Change]]:
    return {Narrower.name: Narrower}


@hookimpl
def learnforge_stages() -> dict[str, type[Stage]]:
    return {"prune-channels": PruneChannels}
